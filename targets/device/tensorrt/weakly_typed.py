"""TensorRT 8.5 to 10.11: weakly typed networks, in which builder flags select the allowed precisions.

Strong typing exists from 8.6 or 10.0 on, but NVIDIA calls it complete only from 10.12 on; so JetPack 5, 6.0, 6.1 and
6.2 use weak typing, with the dialect's unchanged float32 file.
"""

from __future__ import annotations

from typing import Optional

import tensorrt as trt


class Weak10:
    """10.0 to 10.11: networks always have an explicit batch, without a flag."""

    def network(self, builder: trt.Builder) -> trt.INetworkDefinition:
        return builder.create_network(0)

    def allow(self, builder: trt.Builder, config: trt.IBuilderConfig, precision: str) -> Optional[str]:
        """Set the flags of the precision; return the reason if this GPU does not support it, otherwise None.

        int8 also allows fp16: layers without Q/DQ (the network's ends, layers kept in float) would otherwise run
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
        """Return why the file does not fit this precision, or None: `quantized` has Q/DQ, `half` computes in fp16."""
        if half:
            return "it is written in fp16, for TensorRT 10.12 and later; use the float32 file"
        if quantized != (precision == "int8"):
            return f"it has {'' if quantized else 'no '}QuantizeLinear nodes, so it would not be {precision}"
        return None

    def refusal_on_dla(self, precision: str) -> Optional[str]:
        """Return why a DLA cannot run this precision, or None: before TensorRT 11 it needs calibration, not Q/DQ."""
        if precision == "fp16":
            return None
        return f"with this TensorRT, the DLA runs no {precision} from Q/DQ; build fp16 for it, or int8 for the GPU"


class Weak8(Weak10):
    """8.5 and 8.6: the explicit batch needs a flag."""

    def network(self, builder: trt.Builder) -> trt.INetworkDefinition:
        return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
