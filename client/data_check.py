"""The images looked at for one study before anything else is set up: no policy, no ledger, no coordinator."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from client.check import DataLook, Finding, data_findings
from client.policy import Limits, SitePolicy
from common.errors import IntramuralError
from common.protocol import load_protocol


def findings_of_data(
    folder: Path, protocol_file: Path, hospital: str | None, look: DataLook
) -> Iterator[Finding]:
    """What `check` says of the images in `folder` for the study in `protocol_file`, and nothing else.

    `hospital` is a name of the protocol's roster; None: the folder's own name. What is made on the way
    (patches, the salt of local patient ids) is gone at the end, so the ids of two pages differ.
    """
    try:
        protocol = load_protocol(protocol_file)
        name = hospital or folder.resolve().name
        protocol.hospital(name)  # on the roster, or refused
        yield Finding("study protocol", "good", f"'{protocol.study}', hospital '{name}'")
    except IntramuralError as error:
        yield Finding("study protocol", "bad", str(error))
        return
    with TemporaryDirectory(prefix="intramural-check-") as state:
        policy = SitePolicy(
            hospital=name,
            data=folder,
            state=Path(state),
            approved_studies=(),
            max_epsilon=protocol.privacy.epsilon,
            limits=Limits.just_for(protocol),
        )
        yield from data_findings(policy, protocol, look)
