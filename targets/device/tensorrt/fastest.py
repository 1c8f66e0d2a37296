"""Serve the fastest of an image's engines in several precisions.

Each engine is built and proven; those that pass are timed interleaved on the GPU, and the result is stored in the
cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from targets.device.bench.bench import GpuTimed
from targets.device.errors import BuildError, SessionError
from targets.device.gate.evidence_files import write_text, write_whole
from targets.device.gate.run import MeasureError
from targets.device.gate.shard import Shard
from targets.device.gate.started import Started
from targets.device.model import variant
from targets.device.model.variant import PRECISIONS, Chosen
from targets.device.tensorrt import passport as passports
from targets.device.tensorrt.cache import cache_errors
from targets.device.tensorrt.engines import Engines
from targets.device.tensorrt.passport import PassportError
from targets.device.tensorrt.terms import Terms

if TYPE_CHECKING:
    from targets.device.tensorrt.session import TensorRtSession


SCHEMA = 1
TIE = 0.05
"""A smaller precision may be slower than the fastest by this fraction, which is within the noise."""
BLOCK_RUNS = 20
WARM_UP_ROUNDS, ROUNDS, MIN_ROUNDS = 10, 30, 5
"""The first rounds do not count: an idle GPU raises its clocks meanwhile."""
MAX_SECONDS = 20.0
"""Time limit of the counted rounds; large engines get fewer, but at least `MIN_ROUNDS`."""
KEY_LETTERS = 32


@dataclass(frozen=True)
class Rival:
    """The result for one precision's engine."""

    precision: str
    engine_sha256: str
    """Empty if it could not be built."""
    median_ms: Optional[float]
    """Between CUDA events, at the engine's minimum batch; None if it was not timed."""
    left_out: str
    """Why it is excluded; empty if it is not."""


@dataclass(frozen=True)
class Comparison:
    """The timings, the choice, and the terms by which the engines were judged."""

    chosen: str
    """The chosen precision."""
    place: str
    """GPU and TensorRT, e.g. `Orin with TensorRT 10.3.0.30`."""
    batch: int
    """Batch of each timed run; 1 except on a DLA, which supports only one shape."""
    runs: int
    """Timed runs per engine; 0 if only one engine was left, which is not timed."""
    rivals: Sequence[Rival]
    terms: Mapping[str, Any]
    """Hash of the shard, margin, and treatment of an undecided verdict."""

    @property
    def text(self) -> str:
        """The result in a sentence: `fp16: 0.31 ms against 0.35 ms of int8, timed in turn on Orin with TensorRT …`."""
        others = [rival for rival in self.rivals if rival.median_ms is not None and rival.precision != self.chosen]
        own = next(rival.median_ms for rival in self.rivals if rival.precision == self.chosen)
        if own is None or not others:
            return f"{self.chosen}: the only engine proven on {self.place}, so none was timed"
        against = " and ".join(f"{rival.median_ms:.3g} ms of {rival.precision}" for rival in others)
        is_tie = any(rival.median_ms is not None and rival.median_ms < own for rival in others)
        tie = f" (as fast within {TIE * 100:.0f} %, and smaller)" if is_tie else ""
        batch = "" if self.batch == 1 else f" at batch {self.batch}"
        return f"{self.chosen}: {own:.3g} ms against {against}{tie}, timed in turn{batch} on {self.place}"

    @property
    def left_out(self) -> str:
        """All reasons of exclusion, as sentences; empty if all engines were compared."""
        return " ".join(f"Excluded from the comparison: {rival.left_out}" for rival in self.rivals if rival.left_out)

    def as_json(self) -> Dict[str, Any]:
        return {"schema": SCHEMA, "text": self.text, **asdict(self)}


def time_in_turn(sessions: Sequence[GpuTimed], note: Callable[[int, int], None]) -> List[List[float]]:
    """Return the milliseconds of each session's runs, timed in turn; call `note` with each round and their number."""
    times: List[List[float]] = [[] for _ in sessions]
    every = WARM_UP_ROUNDS + ROUNDS
    end = float("inf")
    for number in range(every):
        note(number + 1, every)
        if number == WARM_UP_ROUNDS:
            end = time.monotonic() + MAX_SECONDS
        if number >= WARM_UP_ROUNDS + MIN_ROUNDS and time.monotonic() > end:
            break
        for place in range(len(sessions)):
            # The order rotates, so that no engine always runs after the same predecessor's caches.
            index = (place + number) % len(sessions)
            block = sessions[index].gpu_ms(BLOCK_RUNS)
            if number >= WARM_UP_ROUNDS:
                times[index] += block
    return times


def fastest(medians: Mapping[str, float]) -> str:
    """Return the fastest precision, or the smallest one within `TIE` of it."""
    limit = min(medians.values()) * (1 + TIE)
    return next(precision for precision in PRECISIONS if medians.get(precision, float("inf")) <= limit)


def medians_of(times: Mapping[str, Sequence[float]]) -> Dict[str, float]:
    return {precision: statistics.median(each) for precision, each in times.items()}


def file_of(cache: Path, engines: Mapping[str, str]) -> Path:
    """Return the file for the comparison of these engines, given as hashes by precision."""
    text = json.dumps(dict(engines), sort_keys=True)
    return cache / f"comparison-{hashlib.sha256(text.encode()).hexdigest()[:KEY_LETTERS]}.json"


def read_comparison(file: Path, engines: Mapping[str, str]) -> Optional[Comparison]:
    """Return an earlier start's comparison of exactly these engines; None if there is none, or it is damaged."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if raw.pop("schema") != SCHEMA:
            return None
        del raw["text"]
        found = Comparison(**{**raw, "rivals": [Rival(**each) for each in raw["rivals"]]})
        known = {rival.precision: rival.engine_sha256 for rival in found.rivals if rival.engine_sha256}
        # Detects invalid numbers, and a choice that is not among the engines.
        return found if known == dict(engines) and found.text and found.chosen in known else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None


LOG = logging.getLogger(__name__)
COMPARE = "compare"


class Fastest:
    """The candidates of a start; more than one is open only while they are compared."""

    def __init__(
        self, engines: Engines, shard: Path, terms: Terms, prove: Callable[[Chosen], Started], *, keeps: bool
    ) -> None:
        """`prove` opens or builds one engine and judges it; `keeps` is as in `TensorRtStart`."""
        self._engines = engines
        self._shard = shard
        self._terms = terms
        self._prove = prove
        self._keeps = keeps
        self._left_out: Dict[str, str] = {}

    def start(self, main: Chosen) -> Started:
        """Return the fastest engine; if none may be served, return one with all reasons as its refusal.

        Raises what `prove` raises, except for a failed build or logits that are not finite, which exclude the engine
        from the comparison.
        """
        candidates = [main, *variant.rivals(main.folder, main.manifest)]
        known = self._decide(candidates)
        if known is not None:
            return known
        judged = [found for found in map(self._prove_candidate, candidates) if found is not None]
        passing = self._prefer_proven([each for each in judged if not each.refusal])
        if not passing:
            return self._refuse(judged)
        comparison = self._compare(candidates, passing)
        winner = next(each for each in passing if _precision(each) == comparison.chosen)
        return _with_remark(replace(winner, session=self._open(winner)), comparison)

    def _prove_candidate(self, candidate: Chosen) -> Optional[Started]:
        """Prove an engine and close it, to free memory for the next build; None if there is no engine to judge."""
        precision = candidate.manifest.precision
        try:
            found = self._prove(candidate)
        except BuildError as error:
            self._leave_out(precision, f"the {precision} engine cannot be built: {error}")
            return None
        except MeasureError as error:
            self._leave_out(precision, f"the {precision} engine is not proven: {error}")
            return None
        found.session.close()
        if found.refusal:
            self._leave_out(precision, found.refusal)
        return found

    def _leave_out(self, precision: str, reason: str) -> None:
        self._left_out[precision] = reason
        LOG.warning("excluded from the comparison", extra={"fields": {"precision": precision, "reason": reason}})

    def _prefer_proven(self, passing: List[Started]) -> List[Started]:
        """Return the proven engines; undecided ones, if the recipe allows them, only if none is proven."""
        proven = [each for each in passing if each.is_proven]
        if not proven:
            return passing
        for each in passing:
            if not each.is_proven:
                advice = "" if each.report is None else f": {each.report['advice']}"
                self._leave_out(
                    _precision(each), f"the {_precision(each)} engine is not proven, the gate is undecided{advice}"
                )
        return proven

    def _refuse(self, judged: List[Started]) -> Started:
        why = f"no engine of this image is proven: {' '.join(self._left_out.values())}"
        if not judged:
            raise BuildError(why)
        return replace(judged[0], refusal=why)

    def _decide(self, candidates: List[Chosen]) -> Optional[Started]:
        """Return an earlier start's choice among exactly these engines and terms; None if there is no usable one."""
        hashes = self._hashes(candidates)
        found = read_comparison(file_of(self._engines.cache.folder, hashes), hashes)
        if found is None or len(hashes) < len(candidates) or found.terms != self._terms_now():
            return None
        chosen = next(each for each in candidates if each.manifest.precision == found.chosen)
        try:
            started = self._prove(chosen)
        except (BuildError, MeasureError):
            # Damaged since, and cannot be rebuilt; the others may be usable.
            return None
        # It may have been rebuilt meanwhile.
        if started.refusal or self._hashes([chosen]).get(found.chosen) != hashes[found.chosen]:
            started.session.close()
            return None
        return _with_remark(started, found)

    def _compare(self, candidates: List[Chosen], passing: List[Started]) -> Comparison:
        """Compare with the cache's lock held: a parallel build would distort the times."""
        engines = self._engines
        hashes = self._hashes(candidates)
        file = file_of(engines.cache.folder, hashes)
        precisions = [_precision(each) for each in passing]
        with engines.cache.locked(waiting=engines.wait):
            # A comparison under other terms, or by the process that held the lock before.
            earlier = read_comparison(file, hashes)
            if earlier is not None and _time_engines(earlier) == sorted(precisions):
                medians = {rival.precision: rival.median_ms for rival in earlier.rivals}
                runs, batch = earlier.runs, earlier.batch
            else:
                earlier = None
                times, batch = self._times(passing)
                medians = dict(medians_of(times))
                runs = min(map(len, times.values()), default=0)
            timed = {precision: value for precision, value in medians.items() if value is not None}
            found = Comparison(
                chosen=fastest(timed) if timed else precisions[0],
                place=f"{engines.machine.gpu_name} with TensorRT {engines.machine.tensorrt}",
                batch=batch,
                runs=runs,
                rivals=[
                    Rival(each, hashes.get(each, ""), timed.get(each), self._left_out.get(each, ""))
                    for each in (candidate.manifest.precision for candidate in candidates)
                ],
                terms=self._terms_now(),
            )
            if self._keeps or earlier is None:
                text = json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n"
                with cache_errors(engines.cache.folder):
                    write_whole(file, partial(write_text, text=text))
        return found

    def _times(self, passing: List[Started]) -> Tuple[Dict[str, List[float]], int]:
        """Return milliseconds by precision, and the batch; nothing if only one engine is left."""
        if len(passing) == 1:
            return {}, 0
        progress, names = self._engines.progress, list(map(_precision, passing))
        words = f"timing the engines in {' and '.join(names)} in turn"
        progress.enter(COMPARE, words)
        with ExitStack() as opened:
            sessions = [opened.enter_context(self._open(each)) for each in passing]
            times = time_in_turn(sessions, lambda number, every: progress.note(f"{words}, round {number} of {every}"))
        return {name: times[index] for index, name in enumerate(names)}, max(each.least_batch for each in sessions)

    def _open(self, proven: Started) -> TensorRtSession:
        session = self._engines.open_cached(proven.chosen.folder, proven.chosen.manifest)
        if session is None:
            raise SessionError(
                f"the {_precision(proven)} engine was just proven but cannot be opened any more; the log has the "
                "reason. Check that nothing else changes the engine cache, and start again."
            )
        return session

    def _hashes(self, candidates: List[Chosen]) -> Dict[str, str]:
        """Return the hashes of the engines in the cache, by precision."""
        found = {}
        for each in candidates:
            try:
                found[each.manifest.precision] = passports.read(self._engines.entry(each.manifest)).engine_sha256
            except PassportError:
                continue
        return found

    def _terms_now(self) -> Dict[str, Any]:
        with Shard(self._shard) as shard:
            return {**asdict(self._terms), "shard_sha256": shard.sha256}


def _precision(started: Started) -> str:
    return started.chosen.manifest.precision


def _time_engines(comparison: Comparison) -> List[str]:
    """Return the timed precisions, or the only one."""
    names = [rival.precision for rival in comparison.rivals if rival.median_ms is not None]
    return sorted(names) or [comparison.chosen]


def _with_remark(started: Started, comparison: Comparison) -> Started:
    chosen = replace(started.chosen, reason=comparison.text)
    variant.log(chosen)
    remark = " ".join(text for text in (started.remark, comparison.left_out) if text)
    return replace(started, chosen=chosen, remark=remark, comparison=comparison.as_json())
