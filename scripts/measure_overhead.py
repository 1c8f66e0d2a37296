"""What the protocol costs at batch 1: the server by NVIDIA's client, next to the raw session and a bare echo server.

    python scripts/measure_overhead.py                       a network of ResNet-20's size with random weights
    python scripts/measure_overhead.py --artifact FOLDER     an artifact of `deploy build`

All are asked in turns within one run: `session` in this process; `server` through tritonclient.http with binary
tensors; `echo`, which answers every request with the same bytes through the same client and does nothing else. Wall
time as the client sees it (p50, p90), and CPU time per request of this process and of the one that answers.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tritonclient.http as triton
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from targets.device.cpu import instruction_set
from targets.device.golden import write_golden
from targets.device.healthcheck import is_ready
from targets.device.manifest import SCHEMA, Manifest, read_manifest, sha256_of
from targets.device.preprocess import Preprocessing, normalize
from targets.device.sessions import open_session

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
SIDE, CLASSES, DEPTH = 32, 10, 3
PREPROCESSING = Preprocessing(resize=None, crop=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
OPTIONS: dict[str, str | int] = {
    "graph_optimization_level": "all",
    "execution_mode": "sequential",
    "intra_op_num_threads": 1,
    "session.intra_op.allow_spinning": "0",
}
# Reads one request after the other and answers each with the bytes given to it; no HTTP library, no thread.
ECHO = """
import asyncio, re, sys
answer = open(sys.argv[2], "rb").read()
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        head, found, body = self.data.partition(b"\\r\\n\\r\\n")
        if found and len(body) >= int(re.search(rb"(?i)content-length: *(\\d+)", head).group(1)):
            self.data = b""
            self.transport.write(answer)
async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, help="folder with manifest.json, model and golden images")
    parser.add_argument("--rounds", type=int, default=2000, help="requests to each of the three (default: 2000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.artifact or write_artifact(Path(scratch) / "artifact")
        print(json.dumps(measured(folder, Path(scratch), arguments.rounds), indent=2))


def measured(folder: Path, scratch: Path, rounds: int) -> dict[str, object]:
    """Milliseconds per request of the three, and what the server costs beyond the session."""
    manifest = read_manifest(folder)
    images = np.random.default_rng(0).standard_normal((1, *manifest.input_shape)).astype(np.float32)
    ports = [free_port(), free_port()]
    (scratch / "answer").write_bytes(echoed(manifest))
    serve = [sys.executable, "-m", "targets.device", "serve"]
    echo = [sys.executable, "-c", ECHO, str(ports[1]), str(scratch / "answer")]
    with (
        open_session(folder, manifest) as session,
        running(serve, MODEL_FOLDER=folder, HOST=HOST, PORT=ports[0], LOG_LEVEL="warning") as server,
        running(echo) as bare,
    ):
        wait_until(lambda: is_ready(ports[0], HOST))
        wait_until(lambda: listens(ports[1]))
        clients = [triton.InferenceServerClient(f"{HOST}:{port}") for port in ports]
        ways: dict[str, tuple[Callable[[], object], int | None]] = {
            "session": (lambda: session.infer(images), None),
            "server": (lambda: ask(clients[0], manifest, images), server.pid),
            "echo": (lambda: ask(clients[1], manifest, images), bare.pid),
        }
        np.testing.assert_allclose(ask(clients[0], manifest, images), session.infer(images), rtol=0, atol=1e-5)
        figures = {name: figures_of(*way) for name, way in interleaved(ways, rounds).items()}
        for client in clients:
            client.close()
    overhead = round(figures["server"]["p50_ms"] - figures["session"]["p50_ms"], 3)
    return {"rounds": rounds, **figures, "overhead_p50_ms": overhead}


def interleaved(
    ways: dict[str, tuple[Callable[[], object], int | None]], rounds: int
) -> dict[str, tuple[list[float], float, float]]:
    """Wall times, CPU seconds here and CPU seconds there, per way; the first tenth is not counted."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    here = dict.fromkeys(ways, 0.0)
    there = dict.fromkeys(ways, 0.0)
    for index in range(-rounds // 10, rounds):
        if index == 0:
            there = {name: -cpu_seconds(process) for name, (_, process) in ways.items()}
        for name, (do, _) in ways.items():
            cpu, start = time.process_time(), time.perf_counter()
            do()
            if index >= 0:
                wall[name].append(time.perf_counter() - start)
                here[name] += time.process_time() - cpu
    there = {name: there[name] + cpu_seconds(process) for name, (_, process) in ways.items()}
    return {name: (wall[name], here[name], there[name]) for name in ways}


def figures_of(wall: list[float], here: float, there: float) -> dict[str, float]:
    ms = 1000 / len(wall)
    return {
        "p50_ms": round(float(np.percentile(wall, 50)) * 1000, 3),
        "p90_ms": round(float(np.percentile(wall, 90)) * 1000, 3),
        "cpu_client_ms": round(here * ms, 3),
        "cpu_server_ms": round(there * ms, 3),
    }


def ask(client: triton.InferenceServerClient, manifest: Manifest, images: NDArray[np.float32]) -> NDArray[np.float32]:
    asked = triton.InferInput("images", list(images.shape), "FP32")
    asked.set_data_from_numpy(images, binary_data=True)
    logits: NDArray[np.float32] = client.infer(manifest.name, [asked]).as_numpy("logits")
    return logits


def echoed(manifest: Manifest) -> bytes:
    """A whole answer over the wire, with zeros for logits."""
    size = 4 * len(manifest.classes)
    output = {"name": "logits", "shape": [1, len(manifest.classes)], "datatype": "FP32"}
    header = json.dumps({"outputs": [{**output, "parameters": {"binary_data_size": size}}]}).encode()
    head = f"Content-Length: {len(header) + size}\r\nInference-Header-Content-Length: {len(header)}\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\n" + head.encode() + header + bytes(size)


def cpu_seconds(process: int | None) -> float:
    """User and system time of another process so far, in the kernel's ticks."""
    if process is None:
        return 0.0
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(command: list[str], **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    given = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in settings.items()}}
    process = subprocess.Popen(command, cwd=ROOT, env=given)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("a server did not become ready within 60 s; its log is above")
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def write_artifact(folder: Path) -> Path:
    """Model, manifest and golden images, as `deploy build` would publish them."""
    folder.mkdir()
    model = folder / "model.onnx"
    onnx.save(resnet20(), model)
    manifest = Manifest(
        schema=SCHEMA,
        name="model",
        version="0.1.0",
        target="cpu",
        runtime="onnxruntime",
        runtime_version=onnxruntime.__version__,
        model_file=model.name,
        model_sha256=sha256_of(model),
        precision="fp32",
        weight_bits=None,
        input_shape=(3, SIDE, SIDE),
        classes=tuple(map(str, range(CLASSES))),
        preprocessing=PREPROCESSING,
        session_options=dict(OPTIONS),
        instruction_set=instruction_set(),
        tolerance=1e-3,
    )
    manifest.write(folder)
    pixels = np.random.default_rng(1).integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    with open_session(folder, manifest) as session:
        write_golden(folder, pixels, session.infer(normalize(pixels, PREPROCESSING)))
    return folder


def resnet20() -> onnx.ModelProto:
    """Three stages of three blocks of two convolutions, 16, 32 and 64 channels wide; random weights."""
    random = np.random.default_rng(2)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def node(operator: str, *inputs: str, **attributes: object) -> str:
        name = f"{operator}{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], **attributes))  # type: ignore[arg-type]
        return name

    def layer(operator: str, source: str, *shape: int, **attributes: object) -> str:
        weight = random.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        name = f"weight{len(constants)}"
        constants.append(numpy_helper.from_array(weight.astype(np.float32), name))
        return node(operator, source, name, **attributes)

    x = node("Relu", layer("Conv", "images", 16, 3, 3, 3, pads=[1] * 4))
    width = 16
    for stage in (16, 32, 64):
        for _ in range(DEPTH):
            steps = {"strides": [stage // width] * 2}
            shortcut = x if stage == width else layer("Conv", x, stage, width, 1, 1, **steps)
            x = node("Relu", layer("Conv", x, stage, width, 3, 3, pads=[1] * 4, **steps))
            x = layer("Conv", x, stage, stage, 3, 3, pads=[1] * 4)
            x = node("Relu", node("Add", x, shortcut))
            width = stage
    x = node("Flatten", node("GlobalAveragePool", x))
    layer("Gemm", x, width, CLASSES)
    nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        nodes,
        "resnet20",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


if __name__ == "__main__":
    main()
