"""The code that runs on the device, and validates on the host."""

import os

# ONNX Runtime (1.29 and later) reports its use to its makers unless this is set before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
