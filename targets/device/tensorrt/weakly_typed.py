"""TensorRT 8.5 to 10.11: weakly typed networks, in which builder flags say what precisions may be used.

Strong typing is there from 8.6 or 10.0 on, but NVIDIA calls it complete from 10.12 on only; so JetPack 5, 6.0, 6.1 and
6.2 are built weakly, from the float32 file of the dialect as it is written.
"""

from __future__ import annotations

from typing import Optional

import tensorrt as trt


class Weak10:
    """10.0 to 10.11: every network has its batch in the shape, and no flag says so."""

    def network(self, builder: trt.Builder) -> trt.INetworkDefinition:
        return builder.create_network(0)

    def allow(self, builder: trt.Builder, config: trt.IBuilderConfig, precision: str) -> Optional[str]:
        """Set the flags of the precision; the reason where this GPU cannot do it.

        int8 gets fp16, too: what has no Q/DQ around it (the network's ends, layers kept in float) would otherwise run
        in fp32 among int8 layers.
        """
        if precision == "int8":
            if not builder.platform_has_fast_int8:
                return "this GPU has no int8 arithmetic; build in fp16"
            config.set_flag(trt.BuilderFlag.INT8)
        if precision in ("int8", "fp16"):
            if not builder.platform_has_fast_fp16:
                return "this GPU has no fast fp16 arithmetic; build in fp32"
            config.set_flag(trt.BuilderFlag.FP16)
        return None

    def refusal(self, precision: str, quantized: bool, half: bool) -> Optional[str]:
        """Why a file is not what this precision is built from: `quantized` has Q/DQ, `half` computes in fp16."""
        if half:
            return "it is written in fp16, as for TensorRT 10.12 and later; give the float32 file"
        if quantized != (precision == "int8"):
            return f"it has {'' if quantized else 'no '}QuantizeLinear nodes, so {precision} is not what it would be"
        return None

    def refusal_on_dla(self, precision: str) -> Optional[str]:
        """Why a DLA cannot run this precision: before TensorRT 11 it takes calibrated ranges, no Q/DQ."""
        if precision == "fp16":
            return None
        return f"the DLA of this TensorRT runs no {precision} from Q/DQ files; build fp16 for it, or int8 for the GPU"


class Weak8(Weak10):
    """8.5 and 8.6: the explicit batch has to be asked for."""

    def network(self, builder: trt.Builder) -> trt.INetworkDefinition:
        return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
