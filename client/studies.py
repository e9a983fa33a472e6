"""Which study `--study` means: by its name or its digest."""

from collections.abc import Mapping

from common.errors import RunError


def chosen_study(study: str | None, names: Mapping[str, str], of: str, known: str) -> str | None:
    """The digest of the one study in `names` (digest -> name) that `study` names; None for all of them.

    RunError where it names none or several; `of` and `known` are its words for where such studies are
    and which they are.
    """
    if study is None:
        return None
    found = [digest for digest, name in names.items() if study in (digest, name)]
    if len(found) != 1:
        all_of_them = ", ".join(f"{name} ({digest})" for digest, name in names.items()) or "none"
        raise RunError(
            f"expected --study to be the name or digest of one study {of} and found '{study}', which "
            f"fits {len(found)}; {known}: {all_of_them}"
        )
    return found[0]
