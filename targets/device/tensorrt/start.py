"""Start a model on a GPU: open or build its engine, prove it here, and store the proof with it."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Dict, Optional

from targets.device.errors import SessionError
from targets.device.gate.evidence_files import kept_measurements, write_evidence, write_whole
from targets.device.gate.judge import PASS, UNDECIDED
from targets.device.gate.predictions import Predictions, read_predictions
from targets.device.gate.run import belongs, check_belongs, make_report, predict
from targets.device.gate.shard import Shard
from targets.device.gate.started import Started
from targets.device.measurements import measure_latency
from targets.device.model import golden
from targets.device.model.golden import GoldenResult
from targets.device.model.preprocess import normalize
from targets.device.model.session import Session, check_shape
from targets.device.model.variant import FP16, Chosen, fallback
from targets.device.tensorrt.cache import cache_errors
from targets.device.tensorrt.engines import Engines, model_bytes
from targets.device.tensorrt.fastest import Fastest
from targets.device.tensorrt.terms import FASTEST, NONE, Terms

LOG = logging.getLogger(__name__)
CURE = "Build the image in another precision or with a larger shard"
CURE_ALONE = f"{CURE}, or let the recipe allow fp16."


class TensorRtStart:
    """The start of an image's model on this GPU, with the shard and terms by which it is proven."""

    def __init__(
        self, engines: Engines, shard: Path, terms: Terms, *, measure_seconds: float, keeps: bool = True
    ) -> None:
        """`keeps`: store the proof with the engine for the next start; use it only with the shard of a start."""
        self._engines = engines
        self._progress = engines.progress
        self._shard = shard
        self._terms = terms
        self._seconds = measure_seconds
        self._keeps = keeps

    def start(self, main: Chosen) -> Started:
        """Start the main model, or else the fp16 one if the recipe allows it; or the fastest of all.

        Raises `ModelError`, `ManifestError`, `ShardError`, `ImageError` or `MeasureError` if it cannot be judged.
        """
        found = self._start(main)
        if found.remark and not found.refusal:
            LOG.warning("served with reservations", extra={"fields": {"reason": found.remark}})
        return found

    def _start(self, main: Chosen) -> Started:
        if self._terms.fallback == FASTEST:
            fastest = Fastest(self._engines, self._shard, self._terms, self._prove, keeps=self._keeps)
            found = fastest.start(main)
            return replace(found, refusal=f"{found.refusal} {CURE}.") if found.refusal else found
        first = self._prove(main)
        if not first.refusal:
            return first
        other = None if self._terms.fallback == NONE else fallback(main.folder, main.manifest, first.refusal)
        if other is None:
            return replace(first, refusal=f"{first.refusal} {CURE_ALONE}")
        first.session.close()
        second = self._prove(other)
        if second.refusal:
            return replace(second, refusal=f"{second.refusal} Before that, {first.refusal} {CURE_ALONE}")
        return replace(second, remark=f"{second.remark} It is built in {FP16} {other.reason}".strip())

    def _prove(self, chosen: Chosen) -> Started:
        """Prove an engine from the cache, or build it with the cache's lock held."""
        engines, folder, manifest = self._engines, chosen.folder, chosen.manifest
        with Shard(self._shard) as shard:
            # Before an engine build, which takes minutes.
            check_belongs(shard, manifest)
            self._progress.enter("open", f"looking for the {manifest.precision} engine in {engines.cache.folder}")
            session = engines.open_cached(folder, manifest)
            if session is not None:
                kept = self._read_kept(session, shard, chosen)
                if kept is not None:
                    return self._judge(chosen, session, shard, kept)
                session.close()
            engines.cache.prepare(model_bytes(folder, manifest))
            with engines.cache.locked(waiting=engines.wait):
                session = engines.open_or_build_locked(folder, manifest)
                check_shape(session, folder, manifest)
                return self._judge(chosen, session, shard, self._read_kept(session, shard, chosen))

    def _read_kept(self, session: Session, shard: Shard, chosen: Chosen) -> Optional[Predictions]:
        """Return this engine's predictions for this shard from an earlier start; None if there are none."""
        found = read_predictions(self._engines.entry(chosen.manifest))
        return found if found is not None and belongs(found, shard, session, chosen.manifest) else None

    def _judge(self, chosen: Chosen, session: Session, shard: Shard, kept: Optional[Predictions]) -> Started:
        """Check golden images and gate; store a new proof."""
        try:
            checked = self._check_golden(chosen, session)
            predictions = self._predict(session, shard, chosen) if kept is None else kept
            terms = self._terms
            report = make_report(
                shard, predictions, chosen.manifest, max_drop=terms.max_drop, confidence=terms.confidence
            )
            found = Started(
                chosen=chosen,
                session=session,
                golden=checked,
                report=report,
                is_proven=checked.matched and report["verdict"] == PASS,
                refusal=self._refusal(chosen, session, checked, report),
                remark=_remark(report),
                predictions=predictions,
                folder=self._engines.entry(chosen.manifest),
            )
            if kept is None:
                found = replace(found, measurements=measure_latency(session, self._seconds, self._progress))
                if self._keeps:
                    self._keep(found)
            else:
                found = replace(found, measurements=kept_measurements(self._engines.entry(chosen.manifest)))
        except BaseException:
            session.close()
            raise
        fields = {"verdict": report["verdict"], "drop_points": report["drop_points"], "images": report["images"]}
        LOG.info("judged", extra={"fields": {**fields, "golden": checked.reason, "is_new": kept is None}})
        return found

    def _check_golden(self, chosen: Chosen, session: Session) -> GoldenResult:
        """Check exactly against the logits of the engine's earlier proof; otherwise as on another instruction set.

        The image's logits are from ONNX Runtime, so the manifest's tolerance does not apply to a GPU.
        """
        entry, here = self._engines.entry(chosen.manifest), session.instruction_set
        if (entry / golden.FILE).is_file():
            own = golden.check(session, entry, chosen.manifest, here=here, expected_of=here)
            if not own.matched:
                raise SessionError(
                    f"the engine does not reproduce the logits of its proof: {own.reason}. Its files are unchanged, "
                    f"so check the device; remove {entry} to build and prove it again."
                )
            return own
        self._progress.enter("golden", "comparing the engine's logits with the golden ones")
        expected_of = f"{chosen.manifest.instruction_set} by ONNX Runtime"
        return golden.check(session, chosen.folder, chosen.manifest, here=here, expected_of=expected_of)

    def _predict(self, session: Session, shard: Shard, chosen: Chosen) -> Predictions:
        done = 0
        self._progress.enter("gate", f"running the engine on the gate's {len(shard)} images")

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._progress.note(f"running the engine on the gate's images, {done} of {len(shard)}")

        return predict(shard, session, chosen.manifest, advance)

    def _keep(self, found: Started) -> None:
        """Store the proof with the engine; predictions last, since they mark it as complete for the next start."""
        entry, manifest = self._engines.entry(found.chosen.manifest), found.chosen.manifest
        if found.golden.matched:
            pixels, _ = golden.read_golden(found.chosen.folder)
            logits = found.session.infer(normalize(pixels, manifest.preprocessing))
            with cache_errors(self._engines.cache.folder):
                write_whole(entry / golden.FILE, partial(golden.write_golden_file, pixels=pixels, logits=logits))
        with cache_errors(self._engines.cache.folder):
            write_evidence(entry, found)

    def _refusal(self, chosen: Chosen, session: Session, checked: GoldenResult, report: Dict[str, Any]) -> str:
        if not checked.matched:
            why = checked.reason
        elif self._terms.serves(report["verdict"]):
            return ""
        else:
            low, high = report["drop_interval_points"]
            why = (
                f"the gate says {report['verdict']}: top-1 {report['float_top1']:.2%} to "
                f"{report['artifact_top1']:.2%} on {report['images']} images, a drop of {report['drop_points']:.2f} "
                f"points [{low:.2f}, {high:.2f}], {report['max_drop_points']:g} allowed. "
                f"{report['advice']}"
            )
        what = f"the {chosen.manifest.precision} engine of {session.runtime} on {session.instruction_set}"
        return f"{what} is not proven: {why.rstrip(' .')}."


def _remark(report: Dict[str, Any]) -> str:
    if report["verdict"] != UNDECIDED:
        return ""
    return f"The gate is undecided; the model is served as the recipe allows. {report['advice']}"
