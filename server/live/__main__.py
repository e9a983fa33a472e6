"""The live page's process below `intramural-server start`, which it never outlives and never disturbs.

Its exit code is never 2, which would end the coordinator with it (common/supervisor.py); a port that is
taken is waited for.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path

from common.supervisor import end_with_parent
from server.home import Home
from server.live.address import listening
from server.live.look import OfHome
from server.live.serve import serve

log = logging.getLogger("intramural.page")

AGAIN_SECONDS = 5.0
NICENESS = 10  # the run goes before whoever looks at it


def main() -> None:
    """Entry point of `python -m server.live`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # not at once: temporary files go first
    end_with_parent()
    words = argparse.ArgumentParser(prog="server.live")
    words.add_argument("--home", required=True, type=Path)
    words.add_argument("--listen", required=True, metavar="127.0.0.1:PORT")
    given = words.parse_args(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with contextlib.suppress(OSError):  # the unit's system calls do not have it
        os.nice(NICENESS)
    said = False
    while True:
        try:
            sock = listening(given.listen)
            break
        except OSError as error:
            if not said:
                log.warning("cannot listen at %s yet: %s", given.listen, error.strerror)
            said = True
            time.sleep(AGAIN_SECONDS)
    log.info("listening at %s", given.listen)
    serve(sock, OfHome(Home(given.home)))


if __name__ == "__main__":
    main()
