"""The code that runs on the device; the host also uses it for validation."""

import os

# ONNX Runtime (1.29 and later) sends telemetry unless this is set before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
