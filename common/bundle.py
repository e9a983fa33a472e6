"""The thin app bundle: what Flower carries to a hospital in place of code, and that is none.

A bundle holds one `pyproject.toml`, which names apps that the receiver has installed. It is the same,
byte for byte, wherever the same version of this package is installed, so its hash says whether
coordinator and hospital run the same version. A relay never opens it (client/flower_task.py).
"""

import io
import zipfile
from functools import lru_cache
from importlib.metadata import version

from common.files import sha256

CLIENT_APP, SERVER_APP = "client.app:app", "server.deployed:app"


@lru_cache(maxsize=1)
def bundle() -> bytes:
    """The bundle of this installation, in Flower's format (a zip with a manifest of SHA-256)."""
    about = f"""[project]
name = "study"
version = "{version("intramural")}"
description = "A thin bundle: the apps are installed where they run."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "intramural"

[tool.flwr.app.components]
serverapp = "{SERVER_APP}"
clientapp = "{CLIENT_APP}"
""".encode()
    manifest = f"pyproject.toml,{sha256(about)},{8 * len(about)}".encode()
    out = io.BytesIO()
    # Stored and not deflated: another zlib would make other bytes, and another hash.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (("pyproject.toml", about), (".info/CONTENT", manifest)):
            archive.writestr(zipfile.ZipInfo(name, date_time=(2024, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


def bundle_hash() -> str:
    """SHA-256 of the bundle, by which Flower names it."""
    return sha256(bundle())
