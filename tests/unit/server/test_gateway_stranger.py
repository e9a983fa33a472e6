"""From outside: whatever is not a hospital's own call is refused, and nothing of it reaches the SuperLink."""

import contextlib
import socket
import ssl
import time
import warnings
from base64 import b64decode, b64encode
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from server import gateway
from server.gateway_limits import Rate, encode_key
from tests.unit.server.gateway_rig import (
    NAMES,
    PROTOBUF,
    Files,
    Rig,
    SuperLink,
    heard,
    make_files,
    raw_request,
    signed,
    status_of,
    wait_for,
)

pytestmark = pytest.mark.slow  # all of them together

GET_RUN = b"/v1/fleet/get-run"
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def shared_rig(files: Files) -> Iterator[Rig]:
    superlink = SuperLink(files)
    rig = Rig(files, superlink, strangers=Rate(1000.0, 1000.0), poll_seconds=0.05, hold_seconds=0.1)
    yield rig
    rig.close()
    superlink.close()


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """A gateway that, after the test, has carried nothing, and still works."""
    shared_rig.superlink.raw.clear()
    shared_rig.superlink.seen.clear()
    yield shared_rig
    assert shared_rig.superlink.raw == b""
    assert shared_rig.post("get-run", b"call").status_code == 200
    assert [seen.body for seen in shared_rig.superlink.seen] == [b"call"]


def signed_request(
    rig: Rig, target: bytes, body: bytes = b"call", method: bytes = b"POST"
) -> bytes:
    """What the hospital itself would send: only `target` or `method` is wrong with it."""
    return raw_request(target, PROTOBUF | signed(rig.hospital), body, method=method)


def assert_refused(answer: bytes, *statuses: int) -> None:
    """One answer, with one of these statuses, which says nothing; the connection is closed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(answer) in statuses, answer[:200]
    assert body in (b"", b"Invalid HTTP request received.")
    assert b"connection: close" in head.lower()
    assert b"server:" not in head.lower()


TARGETS = [
    b"/",
    b"/docs",
    b"/openapi.json",
    b"/v1/control/start-run",
    b"/v1/control/register-node",
    b"/v1/runtime/acquire-task",
    b"/v1/runtime/pull-app-messages",
    b"/v1/fleet/register-node",
    b"/v1/fleet/unregister-node",
    b"/v1/fleet/",
    b"/v1/fleet",
    b"/v1/fleet/../control/start-run",
    b"/v1/fleet/./get-run",
    b"/v1/fleet/get-run/../../control/start-run",
    b"/v1/fleet/%2e%2e/control/start-run",
    b"/v1/fleet/%2E%2E%2Fcontrol%2Fstart-run",
    b"/v1/fleet%2Fget-run",
    b"/v1/fleet/get%2Drun",
    b"/v1/fleet/get-run%00",
    b"//v1/fleet/get-run",
    b"/v1//fleet/get-run",
    b"/v1/fleet//get-run",
    b"/v1/fleet/get-run/",
    b"/V1/fleet/get-run",
    b"/v1/fleet/Get-Run",
    b"/v1/fleet/get-run?a=b",
    b"/v1/fleet/get-run;a=b",
    b"/v1/fleet/get-run#a",
    b"/v1/fleet/get-run\\..\\..\\control\\start-run",
    b"v1/fleet/get-run",
    b"https://127.0.0.1/v1/fleet/get-run",
    b"http://127.0.0.1:28443/v1/control/start-run",
    b"*",
    b"/health",  # with POST
]


@pytest.mark.parametrize("target", TARGETS)
def test_only_the_exact_paths_pass(rig: Rig, target: bytes) -> None:
    assert_refused(rig.say(signed_request(rig, target)), 404)


@pytest.mark.parametrize(
    "method", [b"GET", b"PUT", b"HEAD", b"OPTIONS", b"TRACE", b"PATCH", b"post", b"PRI"]
)
@pytest.mark.parametrize("name", [NAMES[0], NAMES[-1]])
def test_only_post_passes(rig: Rig, method: bytes, name: str) -> None:
    assert_refused(rig.say(signed_request(rig, b"/v1/fleet/" + name.encode(), b"", method)), 404)


@pytest.mark.parametrize(
    "request_line",
    [
        b"CONNECT 127.0.0.1:443 HTTP/1.1",
        b"CONNECT /v1/fleet/get-run HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET /health/ HTTP/1.1",
        b"GET /health?a HTTP/1.1",
        b"HEAD /health HTTP/1.1",
    ],
)
def test_nor_does_any_other_request_line(rig: Rig, request_line: bytes) -> None:
    assert_refused(rig.say(request_line + b"\r\nhost: gateway\r\n\r\n"), 404)


@pytest.mark.parametrize("target", [b"/v1/control/start-run", b"/ws"])
def test_there_is_no_websocket(rig: Rig, target: bytes) -> None:
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
    }
    assert_refused(rig.say(raw_request(target, upgrade, method=b"GET")), 404)


HIDDEN = b"POST /v1/control/start-run HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ({"content-length": "5", "transfer-encoding": "chunked"}, b"0\r\n\r\n" + HIDDEN),
        ({"transfer-encoding": "chunked", "content-length": "5"}, b"0\r\n\r\n" + HIDDEN),
        ({"transfer-encoding": "chunked, identity"}, b"0\r\n\r\n" + HIDDEN),
        ({"transfer-encoding": "xchunked"}, b"0\r\n\r\n" + HIDDEN),
        ({"transfer-encoding ": "chunked"}, b"0\r\n\r\n" + HIDDEN),
        ({"content-length": "5, 6"}, b"hello" + HIDDEN),
        ({"content-length": "5\r\ncontent-length: 6"}, b"hello" + HIDDEN),
        ({"content-length": "+5"}, b"hello" + HIDDEN),
        ({"content-length": "-1"}, HIDDEN),
        ({"content-length": "5_0"}, HIDDEN),
        ({"content-length": "9" * 5000}, HIDDEN),
        ({"x-a": "b\x00c"}, b""),
        ({"x-a": "b\rcontent-length: 5"}, b"hello"),
    ],
)
def test_a_request_with_two_lengths_or_none_is_refused(
    rig: Rig, framing: dict[str, str], body: bytes
) -> None:
    headers = signed(rig.hospital) | framing
    assert_refused(rig.say(raw_request(GET_RUN, headers) + body), 400, 413, 501)


def test_what_hides_behind_a_good_request_is_a_request_of_its_own(shared_rig: Rig) -> None:
    shared_rig.superlink.seen.clear()
    answers = shared_rig.say(signed_request(shared_rig, GET_RUN, b"hello") + HIDDEN)
    assert status_of(answers) == 200
    _, _, second = answers.rpartition(b"HTTP/1.1 ")
    assert second.startswith(b"404 ")
    assert [seen.target for seen in shared_rig.superlink.seen] == [GET_RUN]


def test_an_unknown_key_is_refused_for_every_path(rig: Rig) -> None:
    for name in NAMES:
        answer = rig.client.post(f"/v1/fleet/{name}", content=b"call", headers=signed(rig.unknown))
        assert (answer.status_code, answer.content) == (401, b"")


def test_who_only_knows_the_hospitals_public_key_is_refused(rig: Rig) -> None:
    forged = signed(rig.hospital, signer=rig.unknown)
    assert rig.client.post("/v1/fleet/get-run", headers=forged).status_code == 401


def test_another_spelling_of_the_key_is_another_key(rig: Rig) -> None:
    public = rig.hospital.public_key()
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for encoded in (encode_key(public) + b"\n", encode_key(public).strip(), der):
        headers = signed(rig.hospital, encoded=encoded)
        assert rig.client.post("/v1/fleet/get-run", headers=headers).status_code == 401


@pytest.mark.parametrize("age", [310.0, 86400.0, -10.0, -86400.0])
def test_an_old_or_future_signature_is_refused(rig: Rig, age: float) -> None:
    headers = signed(rig.hospital, age=age)
    assert rig.client.post("/v1/fleet/get-run", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "timestamp",
    ["", "rubbish", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "9" * 1000, "é"],
)
def test_a_time_that_is_none_is_refused(rig: Rig, timestamp: str) -> None:
    headers = {name.encode(): value.encode() for name, value in signed(rig.hospital).items()}
    signature = rig.hospital.sign(timestamp.encode(), ec.ECDSA(hashes.SHA256()))
    headers |= {b"flwr-timestamp": timestamp.encode(), b"flwr-signature": b64encode(signature)}
    assert rig.client.post("/v1/fleet/get-run", headers=headers).status_code == 401


@pytest.mark.parametrize("name", ["flwr-public-key", "flwr-timestamp", "flwr-signature"])
def test_each_header_must_be_there_once_and_be_base64(rig: Rig, name: str) -> None:
    whole = signed(rig.hospital)
    without = {key: value for key, value in whole.items() if key != name}
    twice = [*whole.items(), (name, whole[name])]
    assert rig.client.post("/v1/fleet/get-run", headers=without).status_code == 401
    assert rig.client.post("/v1/fleet/get-run", headers=twice).status_code == 400
    for rubbish in ("", "!", whole[name][:-5], whole[name] + "!"):
        answer = rig.client.post("/v1/fleet/get-run", headers=whole | {name: rubbish})
        assert answer.status_code == 401


def test_a_signature_passes_once(shared_rig: Rig) -> None:
    shared_rig.superlink.seen.clear()
    headers = signed(shared_rig.hospital)
    r, s = decode_dss_signature(b64decode(headers["flwr-signature"]))
    mirrored = b64encode(encode_dss_signature(r, P384_ORDER - s)).decode()
    post = shared_rig.client.post
    found = [
        post(f"/v1/fleet/{name}", headers=headers | changed).status_code
        for name, changed in (
            ("get-run", {}),
            ("get-run", {}),
            ("push-object", {}),
            ("get-run", {"flwr-signature": mirrored}),  # just as valid, and made by anybody
        )
    ]
    assert found == [200, 409, 409, 409]
    assert len(shared_rig.superlink.seen) == 1


def test_a_body_beyond_the_limit_is_refused_by_its_length(rig: Rig) -> None:
    for name, size in (("get-run", 1 << 20), ("push-object", 8 << 20), ("get-run", 1 << 62)):
        headers = signed(rig.hospital) | {"content-length": str(size + 1)}
        with rig.line() as line:
            line.sendall(raw_request(b"/v1/fleet/" + name.encode(), headers))
            assert status_of(line.recv(1000)) == 413


def test_a_body_beyond_the_limit_is_cut_where_no_length_was_said(files: Files) -> None:
    superlink = SuperLink(files)
    rig = Rig(files, superlink)
    for name, size in (("pull-messages", 1 << 20), ("push-object", 8 << 20)):
        answer = rig.client.post(
            f"/v1/fleet/{name}", content=iter([b"x" * 65536] * 200), headers=signed(rig.hospital)
        )
        assert answer.status_code == 413
        assert len(superlink.raw) < size + 20_000  # with what frames the chunks
    rig.close()
    superlink.close()
    assert len(superlink.raw) < (8 << 20) + 20_000
    assert superlink.seen == []  # what began to arrive never became a request


def test_a_refusal_reaches_a_client_that_sends_all_before_it_listens(rig: Rig) -> None:
    whole = raw_request(b"/v1/fleet/push-object", signed(rig.unknown), b"x" * (5 << 20))
    for _ in range(3):
        with rig.line() as line:
            line.sendall(whole)
            assert status_of(line.recv(1000)) == 401


def test_too_many_headers_are_refused(rig: Rig) -> None:
    many = {f"x-{n}": "a" * 10 for n in range(50_000)}
    assert_refused(rig.say(raw_request(GET_RUN, signed(rig.hospital) | many)), 400)
    assert_refused(rig.say(b"POST /" + b"a" * 100_000), 400)
    endless = [b"POST /v1/fleet/get-run HTTP/1.1\r\nx-long: ", *[b"a" * 4096] * 100]
    assert_refused(rig.say(*endless), 400)


def test_there_is_no_plaintext(rig: Rig) -> None:
    with socket.create_connection(("127.0.0.1", rig.port), timeout=5) as line:
        line.sendall(signed_request(rig, GET_RUN))
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in line.recv(1000)


def client_tls(files: Files, version: ssl.TLSVersion, ciphers: str = "ALL") -> ssl.SSLContext:
    context = files.trust()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")  # without this the client itself has no TLS 1.1
    return context


def handshake(rig: Rig, context: ssl.SSLContext) -> str | None:
    with (
        socket.create_connection(("127.0.0.1", rig.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        return line.version()


def agreed(client: ssl.SSLContext, server: ssl.SSLContext) -> str | None:
    """The version that the two agree on in memory; ssl.SSLError when there is none."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(down, up, server_hostname="127.0.0.1"),
        server.wrap_bio(up, down, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0].version()


def permissive(files: Files) -> ssl.SSLContext:
    """A server that is content with what the gateway refuses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(files.certificate, files.key)
    return context


def test_tls_is_1_2_or_newer(rig: Rig, files: Files) -> None:
    assert handshake(rig, client_tls(files, ssl.TLSVersion.TLSv1_3)) == "TLSv1.3"
    assert handshake(rig, client_tls(files, ssl.TLSVersion.TLSv1_2)) == "TLSv1.2"
    ours = gateway.server_tls(files.certificate, files.key)
    for old, name in ((ssl.TLSVersion.TLSv1_1, "TLSv1.1"), (ssl.TLSVersion.TLSv1, "TLSv1")):
        client = client_tls(files, old)
        assert agreed(client, permissive(files)) == name  # so it is not the client that refuses
        with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
            agreed(client, ours)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(rig, client)


def test_there_is_no_tls_without_authenticated_encryption(rig: Rig, files: Files) -> None:
    client = client_tls(files, ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-SHA384")
    assert agreed(client, permissive(files)) == "TLSv1.2"
    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
        agreed(client, gateway.server_tls(files.certificate, files.key))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(rig, client)


def test_a_line_that_says_nothing_or_half_a_request_is_cut(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "HEAD_S", 0.3)
    for beginning in (b"", b"POST /v1/fleet/get-run HTTP/1.1\r\nhost: a\r\nx-a: "):
        began = time.monotonic()
        with rig.line() as line:
            if beginning:
                line.sendall(beginning)
            assert heard(line, silence=5) == b""
        assert time.monotonic() - began < 2


def test_a_good_request_has_its_time_and_buys_none_for_the_next(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "HEAD_S", 0.3)
    superlink = SuperLink(files)
    rig = Rig(files, superlink, poll_seconds=0.1, hold_seconds=0.8)
    with rig.line() as line:
        line.sendall(signed_request(rig, b"/v1/fleet/pull-messages"))
        assert status_of(line.recv(1000)) == 200
        line.sendall(b"POST /v1/fleet/pull-mess")
        began = time.monotonic()
        assert heard(line, silence=5) == b""
        assert 0.2 < time.monotonic() - began < 2
    rig.close()
    superlink.close()


def test_one_address_cannot_take_all_connections(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "MAX_CONNECTIONS_PER_ADDRESS", 3)
    superlink = SuperLink(files)
    rig = Rig(files, superlink)
    with contextlib.ExitStack() as lines:
        for _ in range(3):
            lines.enter_context(rig.line())
        wait_for(lambda: len(rig.server.server_state.connections) == 3)
        with rig.line() as one_more:
            assert heard(one_more, silence=5) == b""
        wait_for(lambda: len(rig.server.server_state.connections) == 3)
    rig.close()
    superlink.close()
