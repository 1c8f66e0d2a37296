"""TensorRT 10.12 and later: strongly typed networks, in which the file's own types are what runs.

No flag adds fp16: the file is written in it (`dialects.tensorrt_source`), or runs in fp32. From 11 on there is no
other way; the flag is needed up to 10.16 and ignored afterwards, so one class serves both.
"""

from __future__ import annotations

from typing import Optional

import tensorrt as trt


class Strong:
    """Types are the file's; int8 comes from Q/DQ alone."""

    def network(self, builder: trt.Builder) -> trt.INetworkDefinition:
        return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def allow(self, builder: trt.Builder, config: trt.IBuilderConfig, precision: str) -> Optional[str]:
        """Nothing is left to allow: the parser has read the types."""
        del builder, config, precision
        return None

    def refusal(self, precision: str, quantized: bool, half: bool) -> Optional[str]:
        """Why a file is not what this precision is built from: `quantized` has Q/DQ, `half` computes in fp16.

        An int8 file may be either: half where it keeps layers in float, else with its scales in float32.
        """
        if quantized != (precision == "int8"):
            return f"it has {'' if quantized else 'no '}QuantizeLinear nodes, so {precision} is not what it would be"
        if not quantized and half != (precision == "fp16"):
            return (
                f"it computes in {'fp16' if half else 'fp32'}, and no flag adds {precision} to strongly typed networks"
            )
        return None

    def refusal_on_dla(self, precision: str) -> Optional[str]:
        """Why a DLA cannot run this precision."""
        return None if precision != "fp32" else "a DLA computes in fp16 and int8 alone; build fp16 for it"
