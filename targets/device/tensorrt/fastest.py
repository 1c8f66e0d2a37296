"""Serve the fastest of an image's proven engines: each is built and proven, those that pass are timed in turn.

Proven engines in several precisions, timed in turn on the GPU: which one is served, and how that is kept.
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
from targets.device.tensorrt.cache import explained
from targets.device.tensorrt.engines import Engines
from targets.device.tensorrt.passport import PassportError
from targets.device.tensorrt.terms import Terms

if TYPE_CHECKING:
    from targets.device.tensorrt.session import TensorRtSession


SCHEMA = 1
TIE = 0.05
"""A smaller precision may be this much slower than the fastest: less than that is within the noise."""
BLOCK_RUNS = 20
WARM_UP_ROUNDS, ROUNDS, LEAST_ROUNDS = 10, 30, 5
"""The first rounds are not counted: a GPU that idled raises its clocks meanwhile."""
MOST_SECONDS = 20.0
"""Of the rounds that count; large engines get fewer of them, and the least number whatever they take."""
KEY_LETTERS = 32


@dataclass(frozen=True)
class Rival:
    """One precision's engine, as far as it came."""

    precision: str
    engine_sha256: str
    """Empty where it could not be built."""
    median_ms: Optional[float]
    """Between CUDA events, of the engine's least batch; None where it was not timed."""
    left_out: str
    """Why it does not take part; empty where it does."""


@dataclass(frozen=True)
class Comparison:
    """What was timed, what was chosen, and by which terms the engines had been judged."""

    chosen: str
    """A precision."""
    place: str
    """Such as `Orin with TensorRT 10.3.0.30`."""
    batch: int
    """Of each run that was timed; 1 but on a DLA, which takes one shape only."""
    runs: int
    """Of each engine, that its median is of; 0 where only one was left, and none was timed."""
    rivals: Sequence[Rival]
    terms: Mapping[str, Any]
    """Hash of the shard, margin, and what becomes of an undecided one."""

    @property
    def text(self) -> str:
        """`fp16: 0.31 ms against 0.35 ms of int8, timed in turn on Orin with TensorRT 10.3.0.30`."""
        others = [rival for rival in self.rivals if rival.median_ms is not None and rival.precision != self.chosen]
        own = next(rival.median_ms for rival in self.rivals if rival.precision == self.chosen)
        if own is None or not others:
            return f"{self.chosen}: the only engine that is proven on {self.place}, so none was timed"
        against = " and ".join(f"{rival.median_ms:.3g} ms of {rival.precision}" for rival in others)
        is_tie = any(rival.median_ms is not None and rival.median_ms < own for rival in others)
        tie = f" (as fast within {TIE * 100:.0f} %, and smaller)" if is_tie else ""
        batch = "" if self.batch == 1 else f" at batch {self.batch}"
        return f"{self.chosen}: {own:.3g} ms against {against}{tie}, timed in turn{batch} on {self.place}"

    @property
    def left_out(self) -> str:
        """Every reason, as sentences; empty where all engines were compared."""
        return " ".join(f"Out of the comparison: {rival.left_out}" for rival in self.rivals if rival.left_out)

    def as_json(self) -> Dict[str, Any]:
        return {"schema": SCHEMA, "text": self.text, **asdict(self)}


def time_in_turn(sessions: Sequence[GpuTimed], note: Callable[[int, int], None]) -> List[List[float]]:
    """Milliseconds of every run of each session, block by block; `note` hears of each round and of how many."""
    times: List[List[float]] = [[] for _ in sessions]
    every = WARM_UP_ROUNDS + ROUNDS
    end = float("inf")
    for number in range(every):
        note(number + 1, every)
        if number == WARM_UP_ROUNDS:
            end = time.monotonic() + MOST_SECONDS
        if number >= WARM_UP_ROUNDS + LEAST_ROUNDS and time.monotonic() > end:
            break
        for place in range(len(sessions)):
            # Every engine follows every other one, so none always finds the caches of the same predecessor.
            index = (place + number) % len(sessions)
            block = sessions[index].gpu_ms(BLOCK_RUNS)
            if number >= WARM_UP_ROUNDS:
                times[index] += block
    return times


def fastest(medians: Mapping[str, float]) -> str:
    """The precision with the least of these milliseconds; within `TIE` of it, the smallest one."""
    limit = min(medians.values()) * (1 + TIE)
    return next(precision for precision in PRECISIONS if medians.get(precision, float("inf")) <= limit)


def medians_of(times: Mapping[str, Sequence[float]]) -> Dict[str, float]:
    return {precision: statistics.median(each) for precision, each in times.items()}


def file_of(cache: Path, engines: Mapping[str, str]) -> Path:
    """Where a comparison of these engines, hashes by precision, is kept."""
    text = json.dumps(dict(engines), sort_keys=True)
    return cache / f"comparison-{hashlib.sha256(text.encode()).hexdigest()[:KEY_LETTERS]}.json"


def read_comparison(file: Path, engines: Mapping[str, str]) -> Optional[Comparison]:
    """What an earlier start has kept of just these engines; None where that is nothing, or damaged."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if raw.pop("schema") != SCHEMA:
            return None
        del raw["text"]
        found = Comparison(**{**raw, "rivals": [Rival(**each) for each in raw["rivals"]]})
        known = {rival.precision: rival.engine_sha256 for rival in found.rivals if rival.engine_sha256}
        # A figure that is none, or a choice that is not among them, shows here.
        return found if known == dict(engines) and found.text and found.chosen in known else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None


LOG = logging.getLogger(__name__)
COMPARE = "compare"


class Fastest:
    """One start's candidates; only while they are being compared is more than one of them open."""

    def __init__(
        self, engines: Engines, shard: Path, terms: Terms, prove: Callable[[Chosen], Started], *, keeps: bool
    ) -> None:
        """`prove` builds, or finds, and judges one engine; `keeps` as in `TensorRtStart`."""
        self._engines = engines
        self._shard = shard
        self._terms = terms
        self._prove = prove
        self._keeps = keeps
        self._left_out: Dict[str, str] = {}

    def start(self, main: Chosen) -> Started:
        """The fastest one; where none may be served, one of them with every reason as its refusal.

        Raises what `prove` raises, but for a build that fails and answers that are no numbers: such an engine is out
        of the comparison.
        """
        candidates = [main, *variant.rivals(main.folder, main.manifest)]
        known = self._decide(candidates)
        if known is not None:
            return known
        judged = [found for found in map(self._candidate, candidates) if found is not None]
        passing = self._proven_first([each for each in judged if not each.refusal])
        if not passing:
            return self._refuse(judged)
        comparison = self._compare(candidates, passing)
        winner = next(each for each in passing if _precision(each) == comparison.chosen)
        return _with_remark(replace(winner, session=self._open(winner)), comparison)

    def _candidate(self, candidate: Chosen) -> Optional[Started]:
        """Its proof; closed, lest the next build lack the memory. None where there is no engine to judge."""
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
        LOG.warning("out of the comparison", extra={"fields": {"precision": precision, "reason": reason}})

    def _proven_first(self, passing: List[Started]) -> List[Started]:
        """One that the gate could not decide on is served, where the recipe says so, if none is proven."""
        proven = [each for each in passing if each.is_proven]
        if not proven:
            return passing
        for each in passing:
            if not each.is_proven:
                advice = "" if each.report is None else f": {each.report['advice']}"
                self._leave_out(
                    _precision(each), f"the {_precision(each)} engine is not proven, the gate could not decide{advice}"
                )
        return proven

    def _refuse(self, judged: List[Started]) -> Started:
        why = f"no engine of this image is proven: {' '.join(self._left_out.values())}"
        if not judged:
            raise BuildError(why)
        return replace(judged[0], refusal=why)

    def _decide(self, candidates: List[Chosen]) -> Optional[Started]:
        """What an earlier start chose among these very engines by these terms; None where there is none to go by."""
        hashes = self._hashes(candidates)
        found = read_comparison(file_of(self._engines.cache.folder, hashes), hashes)
        if found is None or len(hashes) < len(candidates) or found.terms != self._terms_now():
            return None
        chosen = next(each for each in candidates if each.manifest.precision == found.chosen)
        try:
            started = self._prove(chosen)
        except (BuildError, MeasureError):
            # Damaged since, and not to be had anew; the others may be.
            return None
        # It may have been built anew meanwhile.
        if started.refusal or self._hashes([chosen]).get(found.chosen) != hashes[found.chosen]:
            started.session.close()
            return None
        return _with_remark(started, found)

    def _compare(self, candidates: List[Chosen], passing: List[Started]) -> Comparison:
        """Under the cache's lock: a build beside it would spoil the times."""
        engines = self._engines
        hashes = self._hashes(candidates)
        file = file_of(engines.cache.folder, hashes)
        precisions = [_precision(each) for each in passing]
        with engines.cache.locked(waiting=engines.wait):
            # Judged by other terms, or by a process that this one has waited for.
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
                with explained(engines.cache.folder):
                    write_whole(file, partial(write_text, text=text))
        return found

    def _times(self, passing: List[Started]) -> Tuple[Dict[str, List[float]], int]:
        """Milliseconds by precision, and the batch; nothing where only one is left."""
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
        session = self._engines.opened(proven.chosen.folder, proven.chosen.manifest)
        if session is None:
            raise SessionError(
                f"the {_precision(proven)} engine was proven a moment ago and cannot be opened any more; the log says "
                "why. See that nothing else changes the engine cache, and start again."
            )
        return session

    def _hashes(self, candidates: List[Chosen]) -> Dict[str, str]:
        """Of the engines that are in the cache, by precision."""
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
    """The precisions that were timed, or the only one that there was."""
    names = [rival.precision for rival in comparison.rivals if rival.median_ms is not None]
    return sorted(names) or [comparison.chosen]


def _with_remark(started: Started, comparison: Comparison) -> Started:
    chosen = replace(started.chosen, reason=comparison.text)
    variant.log(chosen)
    remark = " ".join(text for text in (started.remark, comparison.left_out) if text)
    return replace(started, chosen=chosen, remark=remark, comparison=comparison.as_json())
