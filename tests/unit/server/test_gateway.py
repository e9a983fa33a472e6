"""What a hospital's calls are to the gateway: carried both ways unchanged, refused so that it comes back."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.common import constant as flwr_constant
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    RegisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import Message, PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore import constant as flwr_supercore_constant
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.retry import http_retry
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from common.errors import CoordinatorError
from common.keys import fingerprint
from server import gateway, gateway_app, gateway_limits
from server.gateway_limits import Rate
from tests.unit.server.gateway_rig import (
    NAMES,
    PROTOBUF,
    Files,
    Reply,
    Rig,
    Seen,
    SuperLink,
    make_files,
    raw_request,
    signed,
    status_of,
    wait_for,
)

pytestmark = pytest.mark.slow  # all of them together

MakeRig = Callable[..., Rig]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def superlink(files: Files) -> Iterator[SuperLink]:
    superlink = SuperLink(files)
    yield superlink
    superlink.close()


@pytest.fixture
def make_rig(files: Files, superlink: SuperLink) -> Iterator[MakeRig]:
    """Makes a gateway in front of the SuperLink; it answers an empty pull after 0.2 s."""
    rigs: list[Rig] = []

    def make(**limits: Any) -> Rig:
        rigs.append(Rig(files, superlink, **{"poll_seconds": 0.05, "hold_seconds": 0.2} | limits))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()


@pytest.mark.parametrize("name", NAMES)
def test_a_call_and_its_answer_are_carried_byte_by_byte(
    rig: Rig, superlink: SuperLink, name: str
) -> None:
    call, answer = os.urandom(5000), os.urandom(70_000)
    superlink.reply = lambda _: Reply(answer, status=200 if name != "get-run" else 403)
    response = rig.post(name, call)
    (seen,) = superlink.seen
    assert (seen.method, seen.target) == (b"POST", f"/v1/fleet/{name}".encode())
    assert seen.body == call
    assert response.content == answer
    assert response.status_code == (200 if name != "get-run" else 403)


def test_only_flowers_own_headers_go_up(rig: Rig, superlink: SuperLink) -> None:
    wanted = signed(rig.hospital) | {
        "content-type": "application/protobuf",
        "accept": "application/protobuf",
        "flwr-package-name": "flwr",
        "flwr-package-version": "1.41.0",
        "flwr-component-name": "SuperNode",
    }
    others = {
        "traceparent": "00-1-2-3",
        "authorization": "Bearer x",
        "cookie": "a=b",
        "x-forwarded-for": "10.0.0.1",
        "x-flwr-client": "cli",
        "flwr-superexec-ts": "1",
        "connection": "keep-alive, x-secret",
        "x-secret": "1",
        "te": "trailers",
    }
    rig.client.post("/v1/fleet/get-run", content=b"call", headers=wanted | others)
    (seen,) = superlink.seen
    host = superlink.url.removeprefix("https://")
    ours = {"host": host, "accept-encoding": "identity", "content-length": "4"}
    assert dict(seen.headers) == {
        name.encode(): value.encode() for name, value in (wanted | ours).items()
    }


def test_only_what_a_supernode_reads_comes_back(rig: Rig, superlink: SuperLink) -> None:
    kept = [(b"content-type", b"a/b"), (b"flwr-version-incompatibility-message", b"old")]
    other = [(b"server", b"uvicorn"), (b"x-superlink", b"1"), (b"set-cookie", b"a=b")]
    superlink.reply = lambda _: Reply(b"answer", headers=kept + other)
    response = rig.post("get-run")
    assert response.headers.raw == [*kept, (b"content-length", b"6")]


def test_a_body_in_chunks_and_objects_of_five_mebibytes_pass(
    rig: Rig, superlink: SuperLink
) -> None:
    whole = os.urandom(gateway_app.MAX_OBJECT_BYTES)
    superlink.reply = lambda _: Reply(whole)
    headers = PROTOBUF | signed(rig.hospital)
    pieces = (whole[start : start + 100_000] for start in range(0, len(whole), 100_000))
    response = rig.client.post("/v1/fleet/push-object", content=pieces, headers=headers)
    (seen,) = superlink.seen
    assert seen.body == whole
    assert response.content == whole


def test_what_fails_upstream_is_said_so_that_a_supernode_asks_again(
    rig: Rig, superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_app, "UPSTREAM_TIMEOUT", httpx.Timeout(0.3))
    superlink.reply = lambda _: Reply(delay=1.0)
    silent = rig.post("get-run")
    superlink.reply = lambda _: Reply(b"x" * 100, cut=10)
    with pytest.raises(httpx.RemoteProtocolError):  # a half answer is never passed off as one
        rig.post("get-run")
    cut = rig.post("pull-messages")
    superlink.close()
    down, pull_down = rig.post("get-run"), rig.post("pull-messages")
    found = [answer.status_code for answer in (silent, cut, down, pull_down)]
    assert found == [504, 502, 503, 503]
    assert down.headers["retry-after"] == "1"
    assert set(found) == set(http_retry._RETRYABLE_STATUS_CODES)


def test_a_supernode_comes_back_after_the_roster_is_repaired(
    rig: Rig, superlink: SuperLink
) -> None:
    keys, rig.keys = rig.keys, None
    assert rig.post("get-run").status_code == 503
    assert superlink.raw == b""
    rig.keys = keys
    assert rig.post("get-run").status_code == 200


def test_flowers_own_client_gets_through(rig: Rig, superlink: SuperLink, files: Files) -> None:
    def reply(seen: Seen) -> Reply:
        name = seen.target.rpartition(b"/")[2]
        if name == b"activate-node":
            sent = ActivateNodeRequest.FromString(seen.body)
            assert sent.public_key == public_key_to_bytes(rig.hospital.public_key())
            return Reply(ActivateNodeResponse(node_id=7).SerializeToString())
        if name == b"pull-messages":
            return Reply(PullMessagesResponse(messages_list=[Message()]).SerializeToString())
        return Reply(PushObjectResponse(stored=True).SerializeToString())

    superlink.reply = reply
    node, chunk = Node(node_id=7), os.urandom(flwr_constant.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE)
    public = rig.hospital.public_key()
    with FleetHttpClient.from_server_address(
        f"127.0.0.1:{rig.port}",
        insecure=False,
        root_certificates=files.ca.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(rig.hospital, public),
        ],
    ) as client:
        assert (
            client.ActivateNode(
                ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=30)
            ).node_id
            == 7
        )
        assert len(client.PullMessages(PullMessagesRequest(node=node)).messages_list) == 1
        pushed = PushObjectRequest(node=node, run_id=1, object_id="a" * 64, object_content=chunk)
        assert client.PushObject(pushed).stored
        assert PushObjectRequest.FromString(superlink.seen[-1].body) == pushed
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            client.RegisterNode(RegisterNodeFleetRequest(public_key=b"key"))
        # A roster that is being repaired: the SuperNode's own retries carry it over.
        keys, rig.keys = rig.keys, None
        threading.Timer(0.5, lambda: setattr(rig, "keys", keys)).start()
        invoke = http_retry.make_simple_http_retry_invoker().invoke
        assert invoke(client.PushObject, pushed).stored


def test_our_names_and_numbers_are_flowers() -> None:
    assert (
        gateway_limits.PUBLIC_KEY_HEADER.decode()
        == flwr_supercore_constant.FLEET_HTTP_PUBLIC_KEY_HEADER
    )
    assert (
        gateway_limits.SIGNATURE_HEADER.decode()
        == flwr_supercore_constant.FLEET_HTTP_SIGNATURE_HEADER
    )
    assert gateway_limits.TIMESTAMP_HEADER.decode() == flwr_constant.TIMESTAMP_HEADER
    assert flwr_constant.SYSTEM_TIME_TOLERANCE == gateway_limits.MAX_AHEAD_S
    assert flwr_supercore_constant.MAX_TIMESTAMP_DIFF_SECONDS == gateway_limits.MAX_AGE_S
    assert flwr_constant.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 10_000 < gateway_app.MAX_OBJECT_BYTES
    assert flwr_constant.HEARTBEAT_DEFAULT_INTERVAL * 2 == gateway_app._UNCONFIRMED_S
    for name in (
        flwr_supercore_constant.FLWR_PACKAGE_NAME_METADATA_KEY,
        flwr_supercore_constant.FLWR_PACKAGE_VERSION_METADATA_KEY,
        flwr_supercore_constant.FLWR_COMPONENT_NAME_METADATA_KEY,
    ):
        assert name.encode() in gateway_app._REQUEST_HEADERS
    said = flwr_supercore_constant.VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY
    assert said.encode() in gateway_app._RESPONSE_HEADERS


def test_health_says_version_and_time_and_nothing_else(rig: Rig, superlink: SuperLink) -> None:
    answer = rig.client.get("/health")
    about = answer.json()
    assert set(about) == {"service", "version", "time"}
    assert about["service"] == "intramural gateway"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(about["time"])).total_seconds()) < 5
    assert about["time"].endswith("+00:00")
    assert len(about["time"]) == len("2026-01-01T00:00:00.000+00:00")
    assert {*answer.headers} == {"content-type", "content-length", "connection"}
    assert superlink.raw == b""


def test_a_hospital_beyond_its_rate_is_told_to_come_back(
    make_rig: MakeRig, superlink: SuperLink
) -> None:
    rig = make_rig(hospital=Rate(0.001, 2))
    answers = [rig.post("get-run") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 503]
    assert answers[-1].headers["retry-after"] == "1"
    assert len(superlink.seen) == 2


def test_strangers_beyond_their_rate_take_nothing_from_a_hospital(make_rig: MakeRig) -> None:
    rig = make_rig(strangers=Rate(0.001, 3), hospital=Rate(0.001, 1))
    found = []
    for _ in range(2):  # the stranger knows the hospital's public key, and signs with another
        forged = signed(rig.hospital, signer=rig.unknown)
        found.append(rig.client.post("/v1/fleet/get-run", headers=forged).status_code)
    found += [rig.client.get(path).status_code for path in ("/docs", "/docs", "/health")]
    assert found == [401, 401, 404, 429, 429]
    assert rig.post("get-run").status_code == 200


def test_buckets_fill_again_and_used_signatures_are_forgotten_when_they_are_too_old() -> None:
    bucket = gateway_limits.TokenBucket(Rate(2.0, 3.0), now=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(11.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    used = gateway_limits.UsedSignatures()
    for second in range(1000):
        used.add(second, float(second))
    window = int(gateway_limits.MAX_AGE_S + gateway_limits.MAX_AHEAD_S)
    assert [second in used for second in (999, 999 - window, 998 - window)] == [True, True, False]


def test_the_log_has_one_line_a_request_and_nothing_of_ours(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig(strangers=Rate(0.001, 3))
    caplog.set_level(logging.INFO, logger="intramural.gateway")
    headers = signed(rig.hospital) | {"x-secret": "SECRET^PATIENT"}
    rig.client.post("/v1/fleet/get-run", content=b"SECRET^PATIENT", headers=headers)
    for path in ("/SECRET^PATIENT", "/a", "/b", "/c", "/d"):
        rig.client.post(path, headers={"user-agent": "SECRET^PATIENT"})
    rig.post("get-run")

    def lines() -> list[str]:  # each is written after its answer
        return [r.getMessage() for r in caplog.records if r.name == "intramural.gateway"]

    key = fingerprint(rig.hospital.public_key())[:15]
    wait_for(lambda: len(lines()) == 5)
    assert lines() == [
        f"POST get-run 200 in=14 out=0 key={key}",
        *["- refused 404 in=0 out=0 key=-"] * 3,
        f"POST get-run 200 in=0 out=0 key={key} (and 2 refused with 429)",
    ]
    everything = " ".join(record.getMessage() for record in caplog.records)
    for secret in ("SECRET", *headers.values()):
        assert secret not in everything


def test_a_body_that_comes_too_slowly_is_cut(make_rig: MakeRig, superlink: SuperLink) -> None:
    rig = make_rig(body_seconds=0.5)
    head = raw_request(b"/v1/fleet/push-object", signed(rig.hospital) | {"content-length": "1000"})
    with rig.line() as line:
        line.sendall(head)
        for _ in range(8):
            line.sendall(b"x")
            time.sleep(0.1)
        answer = line.recv(1000)
    assert status_of(answer) == 503
    assert superlink.seen == []


def test_a_client_that_takes_no_answer_is_cut(make_rig: MakeRig, superlink: SuperLink) -> None:
    rig = make_rig(body_seconds=0.5)
    whole = os.urandom(64 << 20)
    superlink.reply = lambda _: Reply(whole)
    with rig.line() as line:
        line.sendall(raw_request(b"/v1/fleet/pull-object", signed(rig.hospital)))
        time.sleep(1.0)
        assert len(rig.server.server_state.tasks) == 0


def test_paths_of_the_certificates_are_checked(tmp_path: Path) -> None:
    (tmp_path / "rubbish").write_text("no certificate")
    for path in (tmp_path / "absent", tmp_path / "rubbish"):
        with pytest.raises(CoordinatorError, match="expected the study CA's certificate"):
            gateway.upstream_trust(path)
        with pytest.raises(CoordinatorError, match="expected a certificate"):
            gateway.server_tls(path, path)
