"""Names of the files that a proof on a device reads and writes."""

from __future__ import annotations

SHARD, FIRST_START = "shard.zip", "first_start.json"
ENGINE, PASSPORT, LAYERS = "model.engine", "passport.json", "layers.json"
PREDICTIONS, MEASUREMENTS, DOCUMENT = "predictions.npz", "measurements.json", "proof.json"
IMAGES_MODEL = "/opt/edge-deploy/model"
"""The model folder of an image; MODEL_FOLDER overrides it."""
