"""Start a model on a CPU: open it, and let it repeat the golden answers; the gate judged it before it was packed."""

from __future__ import annotations

from typing import Any, Dict, Optional

from targets.device.gate.judge import PASS
from targets.device.gate.report import read_report
from targets.device.gate.started import Started
from targets.device.model.golden import check
from targets.device.model.variant import Chosen
from targets.device.open_session import open_session


def start(chosen: Chosen) -> Started:
    """Raises `ManifestError`, `ProofError` or `SessionError`."""
    report = read_report(chosen.folder, chosen.manifest)
    session = open_session(chosen.folder, chosen.manifest)
    golden = check(session, chosen.folder, chosen.manifest)
    return Started(
        chosen=chosen,
        session=session,
        golden=golden,
        report=report,
        is_proven=golden.matched and report is not None and report["verdict"] == PASS,
        refusal="" if golden.matched else golden.reason,
        remark=_remark(report),
    )


def _remark(report: Optional[Dict[str, Any]]) -> str:
    if report is None:
        return "no gate report came with this model."
    verdict = report["verdict"]
    return "" if verdict == PASS else f"the gate's report that came with this model says {verdict}."
