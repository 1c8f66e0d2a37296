"""Names of the marker nodes between the exporter and the dialects (see `targets.dialects.write`)."""

DOMAIN = "edge_deploy"
POINT = "Point"
"""Attributes: `name` of the quantization point; `tensorrt`, 1 where the TensorRT dialect quantizes here."""
WEIGHT = "Weight"
"""Attribute: `name` of the layer whose weight passes through."""
