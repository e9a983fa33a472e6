"""The bill of materials of the product, as CycloneDX 1.6: `make sbom`.

`python deploy/sbom.py FILE [--requirements FILE]` describes what intramural needs, directly or not, as
installed in the environment that runs this; the development tools are left out. Where a wheelhouse
is there, its `requirements.txt` gives each part the SHA-256 of its wheel.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PRODUCT = "intramural"
LONGEST_NAME = 80  # characters; in longer ones the licence's whole text was put where its name goes

Needs = dict[str, set[str]]  # name -> the names that it needs directly


def needs(product: str = PRODUCT) -> Needs:
    """What `product` needs on this machine, transitively, extras as they are asked for."""
    found: Needs = {}
    extras: dict[str, set[str]] = {}
    waiting: list[tuple[str, set[str]]] = [(canonicalize_name(product), set())]
    while waiting:
        name, asked = waiting.pop()
        if name in found and asked <= extras[name]:
            continue
        extras[name] = extras.get(name, set()) | asked
        below = list(_below(distribution(name), extras[name]))
        found[name] = {canonicalize_name(requirement.name) for requirement in below}
        waiting += [(canonicalize_name(r.name), set(r.extras)) for r in below]
    return found


def _below(of: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """The requirements of a distribution that hold on this machine with these extras of it."""
    for line in of.requires or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement


def hashes(requirements: str) -> dict[str, str]:
    """SHA-256 by name, of the text of a wheelhouse's requirements (deploy/wheelhouse.py)."""
    found: dict[str, str] = {}
    for line in requirements.splitlines():
        if "--hash=sha256:" in line:
            pin, _, digest = line.partition(" --hash=sha256:")
            found[canonicalize_name(pin.partition("==")[0])] = digest
    return found


def bill(digests: dict[str, str]) -> Bom:
    """The bill of the installed product, with the hashes in `digests` (SHA-256 by name)."""
    needed = needs()
    product = canonicalize_name(PRODUCT)
    parts = {name: _component(distribution(name), digests.get(name)) for name in needed}
    parts[product].type = ComponentType.APPLICATION
    bom = Bom(components=[part for name, part in parts.items() if name != product])
    bom.metadata.component = parts[product]
    for name, below in needed.items():
        bom.register_dependency(parts[name], [parts[other] for other in sorted(below)])
    return bom


def _component(part: Distribution, digest: str | None) -> Component:
    url = PackageURL("pypi", name=canonicalize_name(part.name), version=part.version)
    return Component(
        type=ComponentType.LIBRARY,
        name=part.name,
        version=part.version,
        bom_ref=str(url),
        purl=url,
        licenses=licences(part),
        hashes=[] if digest is None else [HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )


def licences(part: Distribution) -> list[License]:
    """The licence as the distribution states it: not looked for in its files, and not judged.

    The first that there is of an SPDX expression, a name, and classifiers; none where nothing is
    stated.
    """
    make, declared = LicenseFactory(), LicenseAcknowledgement.DECLARED
    expressions = _said(part, "License-Expression")
    names = [n for n in _said(part, "License") if n != "UNKNOWN" and len(n) <= LONGEST_NAME]
    if stated := [*expressions, *names]:
        return [make.make_from_string(stated[0], license_acknowledgement=declared)]
    classifiers = [c for c in _said(part, "Classifier") if c.startswith("License :: ")]
    names = [c.rpartition(" :: ")[2] for c in classifiers]
    return [make.make_with_name(name, acknowledgement=declared) for name in names]


def _said(part: Distribution, field: str) -> list[str]:
    """What a distribution's metadata holds under `field`, which may be there more than once."""
    return [str(value) for value in part.metadata.get_all(field) or [] if value]


def main() -> None:
    """Write the bill to the file that the command line names."""
    words = argparse.ArgumentParser(description="Describe what intramural is made of.")
    words.add_argument("file", type=Path)
    words.add_argument("--requirements", type=Path, help="of a wheelhouse, for the hashes")
    given = words.parse_args()
    there = given.requirements is not None and given.requirements.exists()
    bom = bill(hashes(given.requirements.read_text()) if there else {})
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    given.file.write_text(text + "\n")
    hashed = sum(1 for part in bom.components if part.hashes)
    unstated = [part.name for part in bom.components if not part.licenses]
    sys.stdout.write(
        f"{given.file}: {len(bom.components)} parts, {hashed} with a hash; "
        f"no licence stated: {', '.join(sorted(unstated)) or 'none'}\n"
    )


if __name__ == "__main__":
    main()
