"""Start a model on a CPU: open it and check its golden images; the gate judged it before packaging."""

from __future__ import annotations

from typing import Any, Dict, Optional

from targets.device.gate.judge import PASS
from targets.device.gate.report import read_report
from targets.device.gate.started import Started
from targets.device.model.golden import check
from targets.device.model.variant import Chosen
from targets.device.open_session import open_session


def start(chosen: Chosen) -> Started:
    """Open and check the model; raise `ManifestError`, `ProofError` or `SessionError`."""
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
        return "this model has no gate report."
    verdict = report["verdict"]
    return "" if verdict == PASS else f"the verdict of this model's gate report is {verdict}."
