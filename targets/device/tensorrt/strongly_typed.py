"""TensorRT 10.12 and later: strongly typed networks, which run in the types of the file.

No flag adds fp16: the file is written in fp16 (`dialects.tensorrt_source`), or runs in fp32. From 11 on there is no
other way; the flag is needed up to 10.16 and ignored afterwards, so one class serves both.
"""

from __future__ import annotations

from typing import Optional

import tensorrt as trt


class Strong:
    """Networks with the file's types; int8 only from Q/DQ."""

    def network(self, builder: trt.Builder) -> trt.INetworkDefinition:
        return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def allow(self, builder: trt.Builder, config: trt.IBuilderConfig, precision: str) -> Optional[str]:
        """Return None: no flags are needed, the types are in the file."""
        del builder, config, precision
        return None

    def refusal(self, precision: str, quantized: bool, half: bool) -> Optional[str]:
        """Return why the file does not fit this precision, or None: `quantized` has Q/DQ, `half` computes in fp16.

        An int8 file may be either: fp16 if it keeps layers in float, otherwise float32.
        """
        if quantized != (precision == "int8"):
            return f"it has {'' if quantized else 'no '}QuantizeLinear nodes, so it would not be {precision}"
        if not quantized and half != (precision == "fp16"):
            return (
                f"it computes in {'fp16' if half else 'fp32'}, and no flag adds {precision} to strongly typed networks"
            )
        return None

    def refusal_on_dla(self, precision: str) -> Optional[str]:
        """Return why a DLA cannot run this precision, or None."""
        return None if precision != "fp32" else "a DLA supports only fp16 and int8; build fp16 for it"
