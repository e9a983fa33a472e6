"""The live page as a test asks for it: in this process, without a socket, with or without its figures."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from common.files import locked
from server.home import Home
from server.live.app import LivePage
from server.live.figures import Figures, Judged
from server.live.look import Look, OfHome, Source
from tests.unit.server.live.homes import MadeHome, protocol, provisioned
from tests.unit.server.live.reading import Page

Ask = Callable[..., httpx.Response]
Show = Callable[[], Page]


class Unknown(Figures):
    """Figures that never come: the accountant takes seconds, and these tests look at the rest."""

    def __init__(self) -> None:
        pass

    def of(self, look: Look) -> Judged | None:  # noqa: ARG002
        return None


def asking(source: Source) -> Ask:
    """Asks one page for `source`: `ask("/", "HEAD", Host="localhost")`."""
    page = LivePage(source, Unknown())

    def ask(path: str = "/", method: str = "GET", **headers: str) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(page)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1:9444"
            ) as c:
                return await c.request(method, path, headers=headers)

        return asyncio.run(go())

    return ask


@pytest.fixture(scope="session")
def provisioned_once(tmp_path_factory: pytest.TempPathFactory) -> MadeHome:
    """To be copied: its keys take a quarter of a second."""
    return provisioned(tmp_path_factory.mktemp("live"), protocol())


@pytest.fixture
def made(provisioned_once: MadeHome, tmp_path: Path) -> MadeHome:
    """A home of five hospitals with nothing begun."""
    home = Home(tmp_path / "coordinator")
    shutil.copytree(provisioned_once.home.path, home.path)
    return MadeHome(home, provisioned_once.study)


@pytest.fixture
def at_work(made: MadeHome) -> Iterator[MadeHome]:
    """The same while its coordinator runs."""
    with locked(made.home.lock):
        yield made


@pytest.fixture
def show(made: MadeHome) -> Show:
    """The page of `made`, taken apart, as one browser sees it again and again."""
    ask = asking(OfHome(made.home))

    def look() -> Page:
        found = ask()
        assert found.status_code == 200, found.text
        return Page(found.text)

    return look
