"""The live page on a socket, until a signal."""

import socket

import uvicorn

from server.live.app import LivePage
from server.live.figures import Figures
from server.live.look import Source

MAX_CONNECTIONS = 32  # an open page takes one
KEEP_ALIVE_S = 10  # longer than until a page of a run under way asks again
STOP_S = 1


def serve(sock: socket.socket, source: Source) -> None:
    """Show `source` on `sock` until SIGTERM or SIGINT, which then end the process."""
    with Figures() as figures:
        config = uvicorn.Config(
            LivePage(source, figures),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
        )
        uvicorn.Server(config).run([sock])
