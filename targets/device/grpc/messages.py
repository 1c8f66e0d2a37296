"""The Open Inference Protocol's gRPC messages: parse requests and serialize responses; tensors are typed or raw."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from targets.device.grpc import open_inference_pb2 as messages
from targets.device.model.manifest import Manifest
from targets.device.server.protocol import InferRequest, check_id, dtype_of, flag, requested_outputs, shape_of
from targets.device.server.tensors import DATATYPES, RequestError, from_bytes, from_values, shown

# Field with a tensor's contents, by datatype.
FIELDS = {"FP32": "fp32_contents", "UINT8": "uint_contents", "BYTES": "bytes_contents"}


def decode_message(kind: Any, data: bytes) -> Any:
    """Parse a message of this kind; raise `RequestError`."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise RequestError(f"the message is not a valid {kind.DESCRIPTOR.name}: {error}") from None


def infer_request(message: Any) -> InferRequest:
    """Convert a ModelInferRequest; by default, outputs are raw if its inputs are."""
    check_id(message.id)
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RequestError(f"raw_input_contents has {len(raw)} entries, the request {len(message.inputs)} inputs")
    binary = flag(_parameters(message.parameters), "binary_data_output", bool(raw))
    outputs = [{"name": each.name, "parameters": _parameters(each.parameters)} for each in message.outputs]
    return InferRequest(
        id=message.id or None,
        inputs=_inputs(message.inputs, raw),
        outputs=requested_outputs(outputs, binary),
        binary=binary,
    )


def infer_response(
    manifest: Manifest, request: InferRequest, output: str, values: NDArray[np.float32], *, binary: bool
) -> bytes:
    """Serialize the ModelInferResponse with the model's output."""
    tensor = messages.ModelInferResponse.InferOutputTensor(name=output, datatype="FP32", shape=values.shape)
    answer = messages.ModelInferResponse(
        model_name=manifest.name, model_version=manifest.version, id=request.id or "", outputs=[tensor]
    )
    if binary:
        answer.raw_output_contents.append(np.ascontiguousarray(values, DATATYPES["FP32"]).tobytes())
    else:
        answer.outputs[0].contents.fp32_contents.extend(values.ravel().tolist())
    written: bytes = answer.SerializeToString()
    return written


def model_metadata(
    manifest: Manifest, platform: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
) -> bytes:
    """Serialize the ModelMetadataResponse; tensors are given as name, datatype and shape."""
    tensor = messages.ModelMetadataResponse.TensorMetadata
    answer = messages.ModelMetadataResponse(
        name=manifest.name,
        versions=[manifest.version],
        platform=platform,
        inputs=[tensor(**each) for each in inputs],
        outputs=[tensor(**each) for each in outputs],
    )
    written: bytes = answer.SerializeToString()
    return written


def _inputs(tensors: Any, raw: Any) -> Dict[str, NDArray[Any]]:
    if not tensors:
        raise RequestError("the request has no input")
    found: Dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(tensors):
        name = tensor.name
        if name in found:
            raise RequestError(f"the input {shown(name)} is given twice")
        entry = {"shape": list(tensor.shape), "datatype": tensor.datatype}
        shape, dtype = shape_of(entry, name), dtype_of(entry, name)
        filled = [field.name for field, _ in tensor.contents.ListFields()]
        if not raw:
            found[name] = _typed_array(tensor, filled, shape, dtype)
        elif filled:
            raise RequestError(f"the input {shown(name)} has both contents and raw_input_contents")
        else:
            data = raw[index]
            found[name] = from_bytes(memoryview(data), name, shape, dtype, len(data))
    return found


def _typed_array(tensor: Any, filled: List[str], shape: Tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    field = FIELDS[tensor.datatype]
    if not filled:
        raise RequestError(f"the input {shown(tensor.name)} has neither contents nor raw_input_contents")
    if filled != [field]:
        given = ", ".join(filled)
        raise RequestError(
            f"the input {shown(tensor.name)} of the datatype {tensor.datatype} has {given}; fill only {field}"
        )
    return from_values(getattr(tensor.contents, field), tensor.name, shape, dtype)


def _parameters(parameters: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = None if choice is None else getattr(value, choice)
    return found
