"""The interface of a runtime."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.artifacts import Audit, Latency, OnnxModel
from targets.device.model.session import Inference
from targets.target import Target


class Runtime(Protocol):
    """A way to run a model: how to compile, time and audit it."""

    @property
    def version(self) -> str:
        """Version of the installed runtime."""

    def open(self, model: Path, *, options: Mapping[str, str | int]) -> Inference:
        """Open a model file; raise `CompileError`."""

    def session_options(self, target: Target, *, threads: int) -> Mapping[str, str | int]:
        """Return the session options of the artifact, which its manifest stores."""

    def time(
        self,
        models: Sequence[Path],
        *,
        options: Mapping[str, str | int],
        report: Callable[[float], None] | None = None,
    ) -> list[Latency]:
        """Return the latency of each model at batch 1, interleaved in one run; `report` gets each finished share."""

    def audit(self, model: OnnxModel, *, options: Mapping[str, str | int], platform: str | None = None) -> Audit:
        """Count what the runtime's optimized graph runs in int8; raise `CompileError` if it differs from the plan.

        `platform` selects whose optimization rules apply; the default is this machine's.
        """
