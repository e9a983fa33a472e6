"""A page opened in headless Chromium: what it became, and what it asked the network for."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_BROWSERS_OWN = "not an origin"  # updates and the like, which no page asked for


@dataclass(frozen=True)
class Opened:
    """`requests` are the URLs that the page and what is in it asked for, itself not among them."""

    dom: str
    complaints: str
    requests: frozenset[str]


def open_page(url: str, folder: Path) -> Opened:
    """Open `url`; no name but 127.0.0.1 is resolved. Skips without Chromium. `folder` is made."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    net_log = folder / "net.json"
    folder.mkdir()
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net_log}",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--dump-dom", url,
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    asked = {
        str(about["url"])
        for event in json.loads(net_log.read_text())["events"]
        if "url" in (about := event.get("params", {}))
        and about.get("initiator", _BROWSERS_OWN) != _BROWSERS_OWN
    }
    fetched = frozenset(one for one in asked if one != url and not one.startswith("data:"))
    return Opened(done.stdout, done.stderr, fetched)
