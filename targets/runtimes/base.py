"""What a runtime is to the stages."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.artifacts import Audit, Latency, OnnxModel
from targets.device.model.session import Inference
from targets.target import Target


class Runtime(Protocol):
    """One way to run a model: how it is compiled, timed and looked into."""

    @property
    def version(self) -> str:
        """Of the runtime that is installed here."""

    def open(self, model: Path, *, options: Mapping[str, str | int]) -> Inference:
        """A session of a bare model file; raises `CompileError`."""

    def session_options(self, target: Target, *, threads: int) -> Mapping[str, str | int]:
        """The options the artifact is opened with everywhere, stored in its manifest."""

    def time(
        self,
        models: Sequence[Path],
        *,
        options: Mapping[str, str | int],
        report: Callable[[float], None] | None = None,
    ) -> list[Latency]:
        """Latency of each model at batch 1, all interleaved in one run, of which each share that is done is told."""

    def audit(self, model: OnnxModel, *, options: Mapping[str, str | int], platform: str | None = None) -> Audit:
        """Count what the runtime's optimized graph runs in int8; raise `CompileError` where the plan is not met.

        `platform` is the target's, whose rules the graph is optimized by; this machine's unless given.
        """
