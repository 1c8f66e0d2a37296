"""Layers as TensorRT's engine inspector tells of them."""

import json
from typing import Any

INT8 = "Thirty-two wide channel vectorized row major Int8 format"


FP16 = "Channel major FP16 format where channel % 8 == 0"


FP32 = "Row major linear FP32"


SEPARATOR = "\x1e"


def tensor(version: int, name: str, kind: str) -> dict[str, Any]:
    """A tensor as one version describes it; `kind` is int8, fp16 or fp32."""
    shown = {"int8": INT8, "fp16": FP16, "fp32": FP32}[kind]
    raw: dict[str, Any] = {"Name": name, "Dimensions": [1, 64, 56, 56]}
    if version >= 11:
        named = {"int8": "Int8", "fp16": "Half", "fp32": "Float"}[kind]
        return {**raw, "Location": "Device", "DataType": named, "Format": shown.replace("Int8 ", "")}
    return {**raw, "Format/Datatype": shown}


def convolution(version: int, name: str, kind: str, nodes: list[str], weights: str = "") -> dict[str, Any]:
    raw: dict[str, Any] = {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [tensor(version, "x", kind)],
        "Outputs": [tensor(version, "y", kind)],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "Weights": {"Type": weights or {"int8": "Int8", "fp16": "Half", "fp32": "Float"}[kind], "Count": 36864},
        "Bias": {"Type": "Float", "Count": 64},
        "TacticName": "a kernel",
    }
    # 8.5 has no metadata yet.
    return raw if version == 8 else {**raw, "Metadata": SEPARATOR.join(f"[ONNX Layer: {node}]" for node in nodes)}


def report(version: int, *, second: str = "int8") -> str:
    """conv1 in int8, conv2 with its addition in `second`, a reformat, pooling, and the last layer as a Gemm."""
    layers = [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1",
            "LayerType": "Reformat",
            "Inputs": [tensor(version, "images", "fp32")],
            "Outputs": [tensor(version, "images'", "int8")],
            "ParameterType": "Reformat",
            "Origin": "REFORMAT",
            **({} if version == 8 else {"Metadata": ""}),
        },
        convolution(version, "conv1.weight.dequantize + conv1 + relu", "int8", ["conv1", "relu"]),
        convolution(version, "layer1.conv2 + add + relu_1", second, ["layer1.conv2", "add", "relu_1"]),
        {
            "Name": "avgpool",
            "LayerType": "CaskPooling",
            "Inputs": [tensor(version, "p", "int8")],
            "Outputs": [tensor(version, "q", "int8")],
            **({} if version == 8 else {"Metadata": "[ONNX Layer: avgpool]"}),
        },
        {
            "Name": "fc",
            "LayerType": "gemm",
            "Inputs": [tensor(version, "q", "int8"), tensor(version, "w", "int8")],
            "Outputs": [tensor(version, "logits", "fp32")],
            **({} if version == 8 else {"Metadata": "[ONNX Layer: fc]"}),
        },
    ]
    ends: dict[str, Any] = {"Bindings": ["images", "logits"]}
    if version >= 11:
        ends = {"I/O Tensors": [{"Name": "images", "IOMode": "Input", "DataType": "Float"}]}
    return json.dumps({"Layers": layers, **ends})
