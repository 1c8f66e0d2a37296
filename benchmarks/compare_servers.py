"""Compare MLServer and Edge Deploy's server with the same ONNX model and client, in one run:

    python benchmarks/compare_servers.py ARTIFACT

MLServer (PyPI) gets its own environment in .deploy/rivals, and a small runtime on the same ONNX Runtime with the same
session options; both run as processes of this machine. MLServer's REST does not support binary tensors, so the two are
compared on JSON; Edge Deploy is also measured with binary tensors, as tritonclient sends them, and with batching of
several clients' requests. `--without-rival` skips MLServer.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
from local_server import HOST, ROOT, free_port, own_server, resident_mib, started

from pipeline.benchmarking.image import latencies, one_image, per_second, percentiles
from pipeline.cli.output import print_table
from pipeline.containers.client import InferenceClient
from targets.device.model.manifest import Manifest, read_manifest
from targets.device.open_session import open_session

RIVAL = "mlserver==1.7.1"
ENVIRONMENT = ROOT / ".deploy" / "rivals" / RIVAL
MIN_REQUESTS, LATENCY_SECONDS, ROUNDS, ROUND_SECONDS = 500, 20.0, 3, 2.0
BATCHING = {"BATCH_IMAGES": "8"}
RUNTIME = """
import json
from pathlib import Path
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
from targets.device.model.manifest import read_manifest
from targets.device.open_session import open_session


class OnnxModel(MLModel):
    async def load(self) -> bool:
        folder = Path(self.settings.parameters.uri)
        self.session = open_session(folder, read_manifest(folder)).__enter__()
        return True

    async def predict(self, payload):
        images = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        logits = self.session.infer(images)
        outputs = [NumpyCodec.encode_output("logits", logits)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


class JsonClient:
    """A connection that sends requests in JSON, which any client of the protocol supports."""

    def __init__(self, port: int, name: str, images: np.ndarray) -> None:
        entry = {"name": "images", "shape": list(images.shape), "datatype": "FP32", "data": images.ravel().tolist()}
        self._body = json.dumps({"inputs": [entry]}).encode()
        self._path = f"/v2/models/{name}/infer"
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)

    def ask(self) -> np.ndarray:
        self._connection.request("POST", self._path, self._body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise SystemExit(f"{self._path} answered {response.status}: {body[:500].decode(errors='replace')}")
        (output,) = json.loads(body)["outputs"]
        return np.array(output["data"], np.float32).reshape(output["shape"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--without-rival", action="store_true")
    arguments = parser.parse_args()
    artifact = arguments.artifact.resolve()
    manifest = read_manifest(artifact)
    images = one_image(manifest.input_shape)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own_port, batching_port = free_port(), free_port()
        own = stack.enter_context(own_server(artifact, port=own_port, log=scratch / "own.log"))
        batching = stack.enter_context(
            own_server(artifact, port=batching_port, log=scratch / "batching.log", extra=BATCHING)
        )
        raw = stack.enter_context(open_session(artifact, manifest))
        makers: dict[str, Callable[[], Callable[[], np.ndarray]]] = {
            "raw session": lambda: lambda: raw.infer(images),
            "edge-deploy, binary": lambda: binary_client(own_port, manifest, images),
            "batching edge-deploy, binary": lambda: binary_client(batching_port, manifest, images),
            "edge-deploy, JSON": lambda: JsonClient(own_port, manifest.name, images).ask,
        }
        memory = {"edge-deploy": own.pid, "batching edge-deploy": batching.pid}
        if not arguments.without_rival:
            rival_port = free_port()
            rival = stack.enter_context(rival_server(scratch, artifact, manifest, rival_port))
            makers[f"{RIVAL}, JSON"] = lambda: JsonClient(rival_port, manifest.name, images).ask
            memory[RIVAL] = rival.pid
        measure(makers, raw.infer(images), memory, arguments.clients)


def measure(
    makers: dict[str, Callable[[], Callable[[], np.ndarray]]],
    expected: np.ndarray,
    processes: dict[str, int],
    clients: int,
) -> None:
    """Measure all in turn in one run; print the table to stdout."""
    calls = {name: make() for name, make in makers.items()}
    for name, call in calls.items():
        if not np.allclose(call(), expected, atol=1e-4):
            raise SystemExit(f"the output of {name} differs from the raw session's, so its timings are not valid.")
    found = latencies(list(calls.values()), seconds=LATENCY_SECONDS, least=MIN_REQUESTS)
    rates: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(ROUNDS):
        for name, make in makers.items():
            callers = 1 if name == "raw session" else clients
            rates[name].append(per_second([make() for _ in range(callers)], ROUND_SECONDS))
    rows = []
    for name, seconds in zip(makers, found, strict=True):
        times = percentiles(seconds)
        resident = [f"{resident_mib(number):.0f}" for part, number in processes.items() if name.startswith(part)]
        figures = [f"{each:.3f}" for each in (times.p50_ms, times.p90_ms, times.p99_ms)]
        rows.append((name, *figures, f"{statistics.median(rates[name]):.0f}", *(resident or ["-"])))
    print_table(
        f"batch 1; {min(map(len, found))} or more requests of one client in turn; then {clients} clients",
        ("", "p50 ms", "p90 ms", "p99 ms", "requests/s", "MiB"),
        rows,
    )


def binary_client(port: int, manifest: Manifest, images: np.ndarray) -> Callable[[], np.ndarray]:
    client = InferenceClient(HOST, port, manifest)
    return lambda: client.infer(images)


def install_rival() -> Path:
    """Return the Python of an environment with MLServer and the same ONNX Runtime as this one."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "complete").exists():
        print(f"installing {RIVAL} into {ENVIRONMENT}", file=sys.stderr)
        wanted = [RIVAL, f"onnxruntime=={onnxruntime.__version__}", f"numpy=={np.__version__}", "pillow"]
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        (ENVIRONMENT / "complete").touch()
    return python


@contextmanager
def rival_server(scratch: Path, artifact: Path, manifest: Manifest, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLServer with the artifact."""
    command = write_rival(scratch / "rival", install_rival(), artifact, manifest, port)
    settings = {"PYTHONPATH": f"{scratch / 'rival'}:{ROOT}", "OPENBLAS_NUM_THREADS": "1"}
    log, folder = scratch / "rival.log", scratch / "rival"
    with started(command, port=port, log=log, settings=settings, folder=folder) as process:
        yield process


def write_rival(folder: Path, python: Path, artifact: Path, manifest: Manifest, port: int) -> list[str]:
    """Write MLServer's files and return its command: one process, one model, a minimal configuration."""
    folder.mkdir()
    (folder / "runtime.py").write_text(RUNTIME)
    server = {
        "host": HOST,
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
    }
    model = {"name": manifest.name, "implementation": "runtime.OnnxModel", "parameters": {"uri": str(artifact)}}
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(python.parent / "mlserver"), "start", "."]


if __name__ == "__main__":
    main()
