"""The package of one hospital: one folder that the coordinator sends, and nothing in it is secret.

The coordinator proposes; what the hospital permits it writes itself into `site.toml`, and which
study it approves. So files that the hospital changes are written once and never again.
"""

import json
from pathlib import Path

from common.files import write_atomic
from common.protocol import StudyProtocol
from common.tasks import model_names, releases, task_of

SOCKET = "/run/intramural/vault.sock"

_SITE = """\
# The site policy of '{hospital}': what this hospital permits, decided by the hospital alone. Without
# this file, with an unknown key in it or without one of its limits, nothing is permitted. It holds as
# it was approved (intramural-client approve), byte for byte. More keys: client/policy.py.
hospital = "{hospital}"
data = "/var/lib/intramural/data"      # the patients: {files}
state = "/var/lib/intramural/state"    # the privacy ledger; never put it back to an earlier state
socket = "{socket}"  # where the vault listens; the same in connection.toml
# relay-user = "intramural-relay"      # who runs the relay, where it is not the vault's own user
device = "auto"                        # "auto", "cpu" or "cuda"

# Studies that this hospital takes part in, by digest. To approve one is the hospital's own act:
# intramural-client approve protocol.toml shows it in plain words and writes its digest here. The
# coordinator says that study '{study}' has the digest
# "{digest}"
approved-studies = []

# The most that each of the hospital's two accounts (training patients, validation patients) may
# spend in its life, all studies together, at a study's delta. Study '{study}' asks for epsilon
# {epsilon!r} (training) and {validation_epsilon!r} (validation).
max-epsilon = {most!r}

# How far any study may go here, whatever a protocol asks. These are this project's own figures and not
# the coordinator's; approve shows what a study uses of them.
[limits]
min-noise-multiplier = 0.5     # a study that asks for less noise gets this much
max-rounds = 200
max-steps = 10000              # local steps in all rounds together
max-evaluations = 200          # releases of a score histogram
smallest-group = 10            # validation patients in each class, or no histogram is released
models = {models}
metrics = {metrics}
# hours = "18:00-06:00"        # when patients may be computed with, this machine's time
"""

_CONNECTION = """\
# How the relay of '{hospital}' reaches the coordinator, and its own vault. Paths are relative to
# this file. Every key is explained in client/connection.py.
hospital = "{hospital}"
coordinator = "{address}"
ca = "ca.crt"                 # the study CA: the only one that is trusted
certificate = "hospital.crt"  # issued by the coordinator
key = "hospital.key"          # made here by keygen; it never leaves this hospital
socket = "{socket}"
home = "relay"                # Flower's files
"""

_NEXT_STEPS = """\
# {hospital}: from this folder to a running hospital

All commands are run in this folder.

1. Put the private key that `intramural-client keygen` made beside these files. It stays in this
   hospital; nobody else ever needs it.

   ```sh
   mv /path/to/hospital.key . && chmod 600 hospital.key
   ```

2. See that this folder comes from the coordinator: call, and compare this fingerprint with the one
   that `intramural-server provision show` shows there for the CA.

   ```sh
   openssl x509 -in ca.crt -noout -fingerprint -sha256
   ```

3. Read `site.toml` and set in it where the patients' data and the privacy ledger lie, `max-epsilon`, and the
   limits. It is the hospital's file: the coordinator neither reads nor changes it.

4. Begin the privacy ledger, once in the hospital's life. A hospital that has one from an earlier
   study keeps it:

   ```sh
   intramural-client ledger create
   ```

5. Read what the study computes, what leaves, and what it costs; then approve it, and with it
   `site.toml` as it stands:

   ```sh
   intramural-client approve protocol.toml
   ```

   After a change of `site.toml`, approve again: without a name, the policy alone.

6. Check everything, then start:

   ```sh
   intramural-client check
   intramural-client start
   ```

   With a user each for vault and relay, under systemd or in containers: docs/operate-hospital.md.

The hospital dials out to {address}
and accepts no connection from outside. `hospital.crt` expires, as `check` says in time: the
coordinator renews it and sends a new one, which takes its place. The key stays the same.
"""


def write_package(
    folder: Path,
    hospital: str,
    protocol: StudyProtocol,
    protocol_text: bytes,
    address: str,
    certificate: bytes,
    ca: bytes,
) -> None:
    """Write the package of `hospital` into `folder` (mode 0700), or renew one that is there.

    Certificates (PEM) and address are always written, the protocol, the template of the site policy
    and the next steps only where they are missing. The certificate comes last.
    """
    privacy = protocol.privacy
    words = {
        "hospital": hospital,
        "study": protocol.study,
        "digest": protocol.digest,
        "epsilon": privacy.epsilon,
        "validation_epsilon": privacy.validation_epsilon,
        "most": max(privacy.epsilon, privacy.validation_epsilon),
        "socket": SOCKET,
        "address": address,
        "files": task_of(protocol).files,
        "models": json.dumps(model_names(protocol)),
        "metrics": json.dumps(releases(protocol)),
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in (
        ("protocol.toml", protocol_text),
        ("site.toml", _SITE.format_map(words).encode()),
        ("NEXT-STEPS.md", _NEXT_STEPS.format_map(words).encode()),
    ):
        if not (folder / name).exists():
            write_atomic(folder / name, content)
    write_atomic(folder / "connection.toml", _CONNECTION.format_map(words).encode())
    write_atomic(folder / "ca.crt", ca)
    write_atomic(folder / "hospital.crt", certificate)
