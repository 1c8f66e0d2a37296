"""Edge Deploy: a trained ResNet goes in, a proven container image comes out, or nothing does."""

import os

__version__ = "0.1.0"

# ONNX Runtime (1.29 and later) reports its use to its makers unless this is set before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
