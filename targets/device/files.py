"""What the files of an engine are called, also where nothing of TensorRT is."""

from __future__ import annotations

ENGINE, PASSPORT, LAYERS = "model.engine", "passport.json", "layers.json"
