"""`deploy collect`: what a device has proven of the engine it built, fetched and judged again here."""

import json
from dataclasses import asdict
from pathlib import Path

from pipeline.artifacts import Verdict
from pipeline.collect import Access, collect, device_name
from pipeline.engine_audit import check_engine
from pipeline.errors import GateFailed, GateUndecided, RecipeError
from pipeline.narration import comparison_text, verdict_text
from pipeline.printable import say


def run(
    address: str,
    *,
    name: str | None,
    token_file: Path | None,
    authority: Path | None,
    workspace: Path,
    as_json: bool,
) -> None:
    """Print the device's report and keep it beside its artifact; a failed one is kept, too."""
    device = name or device_name(address)
    access = Access(token=None if token_file is None else _token(token_file), authority=authority)
    found = collect(address, name=device, workspace=workspace, access=access)
    report = found.report
    if as_json:
        audit = None if found.audit is None else asdict(found.audit)
        own = {"device": device, "folder": str(found.folder), "audit": audit, "note": found.note}
        print(json.dumps({**own, "comparison": found.facts.get("comparison"), **asdict(report)}, indent=2))
    else:
        say(f"{device}: {verdict_text(report)}")
        if found.note is not None:
            say(f"{device}: {found.note}")
        if compared := comparison_text(found.facts):
            say(f"{device}: {compared}")
        if found.audit is not None:
            say(f"{device}: {found.audit.text}")
        say(f"{report.runtime} on {report.instruction_set}; kept in {found.folder}")
    if report.verdict is Verdict.FAIL:
        raise GateFailed(f"the engine on {device} loses more than the {report.max_drop_points:g} points allowed.")
    if report.verdict is Verdict.UNDECIDED:
        raise GateUndecided(f"{report.images} images do not decide whether the engine on {device} is good enough.")
    if found.audit is not None:
        check_engine(found.audit, device)


def _token(file: Path) -> str:
    """The first of the server's tokens; the file is the one that TOKEN_FILE names there."""
    try:
        lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise RecipeError(f"the token file {file} cannot be read: {error.strerror}.") from None
    if not lines:
        raise RecipeError(f"the token file {file} holds no token.")
    return lines[0]
