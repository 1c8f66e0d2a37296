"""What the files are called by which a model is proven on a device, and those that prove it."""

from __future__ import annotations

SHARD, FIRST_START = "shard.zip", "first_start.json"
ENGINE, PASSPORT, LAYERS = "model.engine", "passport.json", "layers.json"
PREDICTIONS, MEASUREMENTS, DOCUMENT = "predictions.npz", "measurements.json", "proof.json"
IMAGES_MODEL = "/opt/edge-deploy/model"
"""Where an image has its model; MODEL_FOLDER names another."""
