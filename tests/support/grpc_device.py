"""A real server of an artifact that speaks gRPC in a process of its own, and requests to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from device_server import HOST, Running, free_port, serving
from numpy.typing import NDArray
from tiny_package import TinyPackage
from tritonclient.grpc import service_pb2 as messages

from targets.device.open_session import open_session

INFER = "/inference.GRPCInferenceService/ModelInfer"
SECONDS = 30.0


@contextmanager
def speaking(folder: Path, log: Path, **settings: Any) -> Iterator[tuple[Running, str]]:
    """The server, ready, and where it speaks gRPC."""
    port = free_port()
    with serving(folder, log, GRPC_PORT=port, **settings) as running:
        yield running, f"{HOST}:{port}"


@contextmanager
def channel(address: str) -> Iterator[Any]:
    """A connection of its own: by itself gRPC shares them within a process."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened


def expected(tiny: TinyPackage, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a session in this process answers."""
    with open_session(tiny.folder, tiny.manifest) as session:
        return session.infer(values)


def tensor(name: str, values: NDArray[Any], datatype: str) -> Any:
    """An input as NVIDIA's client sends it: raw."""
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def typed(name: str, shape: list[int], datatype: str, **contents: object) -> Any:
    """An input as a message, with these contents."""
    return messages.ModelInferRequest.InferInputTensor(
        name=name, shape=shape, datatype=datatype, contents=messages.InferTensorContents(**contents)
    )


def typed_images(values: NDArray[np.float32]) -> Any:
    return typed("images", list(values.shape), "FP32", fp32_contents=values.ravel().tolist())


def request(*inputs: Any, **fields: object) -> Any:
    return messages.ModelInferRequest(**{"model_name": "tiny", "inputs": list(inputs), **fields})


def infer(opened: Any, message: Any, **options: object) -> Any:
    """The answer to a request that is a message, or bytes."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    answer = opened.unary_unary(INFER)(data, **{"timeout": SECONDS, **options})
    return messages.ModelInferResponse.FromString(answer)


def refusal(opened: Any, message: Any, **options: object) -> tuple[grpc.StatusCode, str]:
    """Status and words of what the server does not answer."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(opened, message, **options)
    return status_of(caught.value)


def status_of(error: Any) -> tuple[grpc.StatusCode, str]:
    return error.code(), error.details()
