"""The generated gRPC messages against what they were generated from; generating needs grpcio-tools."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from script import load_script
from tritonclient.grpc import service_pb2

ROOT = Path(__file__).parents[3]


SCRIPT = load_script("scripts/generate_grpc.py")
TYPES = {
    f"TYPE_{each}" for each in ("BOOL", "BYTES", "DOUBLE", "FLOAT", "INT32", "INT64", "STRING", "UINT32", "UINT64")
}


def test_generating_again_gives_the_same() -> None:
    if not SCRIPT.is_available():
        pytest.skip(f"{SCRIPT.GENERATOR} is not here and cannot be fetched with uv")
    assert SCRIPT.generate() == SCRIPT.WRITTEN.read_text()


def test_the_messages_are_made_with_the_protobuf_that_is_here() -> None:
    """In a process of its own: NVIDIA's client registers messages of the same names. Its warnings are errors."""
    code = (
        "from targets.device.grpc import open_inference_pb2 as messages\n"
        "request = messages.ModelInferRequest(model_name='tiny', raw_input_contents=[b'12'])\n"
        "print(messages.ModelInferRequest.FromString(request.SerializeToString()) == request)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_names_numbers_and_types_are_those_of_another_implementation() -> None:
    """NVIDIA's protocol has more, but what ours has is alike on the wire."""
    text = re.sub(r"//.*", "", SCRIPT.PROTO.read_text())
    field = re.compile(r"(repeated )?(map<string, \w+>|\w+) (\w+) = (\d+);")
    stack: list[str] = []
    compared = 0
    for line in text.splitlines():
        words = line.split()
        if words[:1] in (["message"], ["oneof"], ["service"]):
            if "}" not in line:
                stack.append(words[1] if words[0] == "message" else "")
        elif words == ["}"]:
            stack.pop()
        elif (found := field.fullmatch(line.strip())) is not None:
            path = ".".join(name for name in stack if name)
            theirs = service_pb2.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{path}").fields_by_name[found[3]]
            is_map = found[2].startswith("map<")
            assert (theirs.number, theirs.is_repeated) == (int(found[4]), bool(found[1]) or is_map), (path, found[3])
            assert is_map or found[2] == type_of(theirs), (path, found[3])
            compared += 1
    assert compared == 56
    assert stack == []


def type_of(field: Any) -> str:
    if field.message_type is not None:
        return str(field.message_type.name)
    (name,) = [name for name, number in vars(FieldDescriptor).items() if name in TYPES and number == field.type]
    return str(name).removeprefix("TYPE_").lower()
