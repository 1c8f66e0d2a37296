"""What the files that prove a model on a device are called."""

from __future__ import annotations

ENGINE, PASSPORT, LAYERS = "model.engine", "passport.json", "layers.json"
PREDICTIONS, MEASUREMENTS, DOCUMENT = "predictions.npz", "measurements.json", "proof.json"
