"""The gRPC server's port, limits, TLS and end; and what is said where there is no gRPC."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from device_server import HOST, Running, answer_of, device, free_port, http_request, images, python, start
from grpc_device import INFER, SECONDS, channel, infer, refusal, request, speaking, status_of, tensor, typed_images
from malformed_requests import GOOD
from scraped_metrics import metrics
from tiny_package import TinyPackage, write_tiny_package
from tritonclient.grpc import service_pb2_grpc

from targets.device.grpc.disconnect import cut

ONE = typed_images(images(1))
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
# A request of one image waits so long for others to be run with.
WAITS_TEN_SECONDS = {"BATCH_IMAGES": 8, "BATCH_DELAY_MS": 10_000}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    return write_tiny_package(tmp_path_factory.mktemp("served") / "artifact")


def begun(opened: Any, running: Running) -> Any:
    """A request that is being answered."""
    call = opened.unary_unary(INFER).future(request(ONE).SerializeToString(), timeout=SECONDS)
    wait_for(running, "edge_deploy_waiting_requests 1.0")
    return call


def held(opened: Any, release: threading.Event) -> Any:
    """A call whose message does not come before `release`."""

    def message() -> Iterator[bytes]:
        release.wait(SECONDS)
        yield request(ONE).SerializeToString()

    return opened.stream_unary(INFER).future(message(), timeout=SECONDS)


def wait_for(running: Running, line: str) -> None:
    """Until the metrics have this line."""
    deadline = time.monotonic() + SECONDS
    while line not in metrics(running):
        assert time.monotonic() < deadline, metrics(running)
        time.sleep(0.02)


def test_a_message_beyond_the_limit_is_refused_and_costs_no_place(tiny: TinyPackage, tmp_path: Path) -> None:
    limits = {"MAX_BODY_MIB": 1, "MAX_WAITING": 1}
    with speaking(tiny.folder, tmp_path / "log", **limits) as (running, address), channel(address) as opened:
        for _ in range(3):
            code, words = refusal(opened, bytes((1 << 20) + 1))
            assert code is EXHAUSTED
            assert "larger than max (1048577 vs. 1048576)" in words
        # As large as may be, but no message.
        assert refusal(opened, b"\xff" * (1 << 20))[0] is grpc.StatusCode.INVALID_ARGUMENT
        wait_for(running, "edge_deploy_waiting_requests 0.0")
        assert infer(opened, request(ONE)).model_name == "tiny"


def test_compressed_messages_are_refused_before_they_are_inflated(tiny: TinyPackage, tmp_path: Path) -> None:
    """A few kilobytes would become as many megabytes, whatever the limit is."""
    with speaking(tiny.folder, tmp_path / "log", MAX_BODY_MIB=1) as (_, address), channel(address) as opened:
        for size in (100, 50 << 20):
            code, words = refusal(opened, bytes(size), compression=grpc.Compression.Gzip)
            assert (code, words) == (grpc.StatusCode.UNIMPLEMENTED, "Compression algorithm 'gzip' is disabled.")
        assert infer(opened, request(ONE)).model_name == "tiny"


def test_http_and_grpc_share_the_places(tiny: TinyPackage, tmp_path: Path) -> None:
    full = "2 requests are already being answered (MAX_WAITING); try again"
    settings = {"MAX_WAITING": 2, "BATCH_IMAGES": 8, "BATCH_DELAY_MS": 2000}
    with (
        speaking(tiny.folder, tmp_path / "log", **settings) as (running, address),
        channel(address) as opened,
        running.connect() as over_http,
    ):
        call = begun(opened, running)
        over_http.sendall(http_request(GOOD))
        wait_for(running, "edge_deploy_waiting_requests 2.0")
        assert refusal(opened, request(ONE)) == (EXHAUSTED, full)
        assert running.ask(http_request(GOOD)) == (429, {"error": full})
        # Who only looks needs no place.
        with triton.InferenceServerClient(address) as client:
            assert client.is_model_ready("tiny")
        assert answer_of(over_http)[0] == 200
        assert call.result()
        wait_for(running, "edge_deploy_waiting_requests 0.0")


def test_a_client_that_cancels_gives_its_place_back(tiny: TinyPackage, tmp_path: Path) -> None:
    settings = {"MAX_WAITING": 1, **WAITS_TEN_SECONDS}
    with speaking(tiny.folder, tmp_path / "log", **settings) as (running, address), channel(address) as opened:
        call = begun(opened, running)
        assert refusal(opened, request(ONE))[0] is EXHAUSTED
        call.cancel()
        wait_for(running, "edge_deploy_waiting_requests 0.0")
        # Eight images need not wait for others.
        assert infer(opened, request(typed_images(images(8)))).model_name == "tiny"
        assert [entry["status"] for entry in running.logged() if entry["message"] == "request refused"] == [429]


def test_a_deadline_of_the_client_gives_its_place_back(tiny: TinyPackage, tmp_path: Path) -> None:
    with (
        speaking(tiny.folder, tmp_path / "log", MAX_WAITING=1, **WAITS_TEN_SECONDS) as (running, address),
        channel(address) as opened,
    ):
        assert refusal(opened, request(ONE), timeout=0.5)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for(running, "edge_deploy_waiting_requests 0.0")


def test_what_is_late_is_refused_with_the_setting(tiny: TinyPackage, tmp_path: Path) -> None:
    settings = {"BODY_SECONDS": 1, "REQUEST_SECONDS": 1, "MAX_WAITING": 1, **WAITS_TEN_SECONDS}
    with speaking(tiny.folder, tmp_path / "log", **settings) as (running, address), channel(address) as opened:
        with pytest.raises(grpc.RpcError) as caught:
            held(opened, threading.Event()).result()
        assert status_of(caught.value) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "the body did not arrive within 1 s (BODY_SECONDS)",
        )
        assert refusal(opened, request(ONE)) == (
            grpc.StatusCode.UNAVAILABLE,
            "there was no response within 1 s (REQUEST_SECONDS); try again later",
        )
        text = metrics(running)
        for status in (408, 503):
            assert f'edge_deploy_requests_total{{protocol="grpc",status="{status}"}} 1.0' in text


def test_more_connections_than_allowed_are_turned_away(tiny: TinyPackage, tmp_path: Path) -> None:
    with speaking(tiny.folder, tmp_path / "log", MAX_CONNECTIONS=2) as (_, address):
        with ExitStack() as stack:
            for _ in range(2):
                infer(stack.enter_context(channel(address)), request(ONE))
            assert refusal(stack.enter_context(channel(address)), request(ONE))[0] is grpc.StatusCode.UNAVAILABLE
        with channel(address) as opened:
            assert infer(opened, request(ONE), wait_for_ready=True).model_name == "tiny"


def test_a_request_at_hand_is_answered_before_the_server_ends(tiny: TinyPackage, tmp_path: Path) -> None:
    settings = {"BATCH_IMAGES": 8, "BATCH_DELAY_MS": 1500}
    with speaking(tiny.folder, tmp_path / "log", **settings) as (running, address), channel(address) as opened:
        call = begun(opened, running)
        with ThreadPoolExecutor(1) as thread:
            stopped = thread.submit(running.stop)
            running.wait_for("stopping")
            assert call.result()
            assert stopped.result() == 0
        assert refusal(opened, request(ONE))[0] is grpc.StatusCode.UNAVAILABLE
        assert running.logged()[-1]["message"] == "stopped"


def test_a_request_that_takes_longer_than_the_grace_is_given_up(tiny: TinyPackage, tmp_path: Path) -> None:
    settings = {"GRACE_SECONDS": 1, "BATCH_IMAGES": 8, "BATCH_DELAY_MS": 3000}
    with speaking(tiny.folder, tmp_path / "log", **settings) as (running, address), channel(address) as opened:
        call = begun(opened, running)
        assert running.stop() == 0
        with pytest.raises(grpc.RpcError) as caught:
            call.result()
        assert caught.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert not [entry for entry in running.logged() if "traceback" in entry]


def test_the_service_is_found_under_its_name(tiny: TinyPackage, tmp_path: Path) -> None:
    """By stubs that were generated elsewhere."""
    with speaking(tiny.folder, tmp_path / "log") as (_, address), channel(address) as opened:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(opened)
        assert list(stub.ModelInfer(request(ONE), timeout=SECONDS).outputs[0].shape) == [1, 4]
        with pytest.raises(grpc.RpcError) as caught:
            opened.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")(b"", timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# TLS


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """authority.pem, and by it server.pem and client.pem, each with its .key."""
    folder = tmp_path_factory.mktemp("certificates")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(
        folder, "req", "-x509", *new_key, "-keyout", "authority.key", "-out", "authority.pem", "-subj", "/CN=authority"
    )
    (folder / "names").write_text(f"subjectAltName=IP:{HOST}\n")
    for name in ("server", "client"):
        openssl(folder, "req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        sign = ["x509", "-req", "-in", f"{name}.csr", "-CA", "authority.pem", "-CAkey", "authority.key"]
        openssl(folder, *sign, "-CAcreateserial", "-out", f"{name}.pem", "-extfile", "names")
    return folder


def answers(address: str, certificates: Path, **files: str) -> bool:
    """Whether a TLS client with these files is answered."""
    given = {name: str(certificates / file) for name, file in files.items()}
    with triton.InferenceServerClient(
        address, ssl=True, root_certificates=str(certificates / "authority.pem"), **given
    ) as client:
        try:
            answer = client.infer("tiny", [tensor("images", images(1), "FP32")], client_timeout=5)
        except triton.InferenceServerException as error:
            if error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"):
                return False
            raise
        assert answer.as_numpy("logits").shape == (1, 4)
        return True


@pytest.mark.parametrize("asks_certificate", [False, True], ids=["TLS", "mutual TLS"])
def test_tls_has_the_files_of_http(
    tiny: TinyPackage, certificates: Path, tmp_path: Path, asks_certificate: bool
) -> None:
    settings: dict[str, Any] = {
        "TLS_CERTIFICATE": certificates / "server.pem",
        "TLS_KEY": certificates / "server.key",
    }
    if asks_certificate:
        settings["TLS_CLIENT_CA"] = certificates / "authority.pem"
    port = free_port()
    running = start(tiny.folder, tmp_path / "log", GRPC_PORT=port, **settings)
    try:
        running.wait_for("ready")
        address = f"{HOST}:{port}"
        assert answers(address, certificates, private_key="client.key", certificate_chain="client.pem")
        assert answers(address, certificates) is not asks_certificate
        with channel(address) as plain:
            assert refusal(plain, request(ONE), timeout=5)[0] is grpc.StatusCode.UNAVAILABLE
        assert running.stop() == 0
    finally:
        running.process.kill()
        running.process.wait()


# Where it cannot be had


def test_without_grpc_the_server_says_what_to_do(tiny: TinyPackage) -> None:
    code = (
        "import sys; sys.modules['grpc'] = None; from targets.device.__main__ import main; sys.exit(main(['serve']))"
    )
    done = python("-c", code, MODEL_FOLDER=tiny.folder, PORT=free_port(), GRPC_PORT=free_port())
    assert done.returncode == 2
    assert "error: GRPC_PORT is set, but this image has no gRPC (" in done.stderr
    assert done.stderr.endswith("Build it with --grpc, or unset GRPC_PORT.\n")


def test_nothing_of_grpc_is_imported_unless_it_is_asked_for() -> None:
    code = (
        "import sys, targets.device.serve, targets.device.selftest, targets.device.server.application\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'grpc', 'google'}))"
    )
    assert python("-c", code).stdout.strip() == "[]"


def test_a_port_that_is_taken_is_named(tiny: TinyPackage) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        done = device("serve", MODEL_FOLDER=tiny.folder, HOST=HOST, PORT=free_port(), GRPC_PORT=port)
    assert done.returncode == 2
    assert f"cannot listen on HOST '{HOST}', GRPC_PORT {port}: " in done.stderr
    assert "Use another port" in done.stderr


def test_a_connection_is_cut_by_its_peer_alone() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        clients = [socket.create_connection((HOST, port), SECONDS) for _ in range(2)]
        accepted = [listener.accept()[0] for _ in clients]
        try:
            own = clients[0].getsockname()[1]
            assert not cut(f"ipv4:{HOST}:{own}", port + 1)
            assert cut(f"ipv6:%5B::ffff:{HOST}%5D:{own}", port)
            assert clients[0].recv(1) == b""
            accepted[1].sendall(b"x")
            assert clients[1].recv(1) == b"x"
        finally:
            for each in (*clients, *accepted):
                each.close()
