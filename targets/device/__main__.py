"""python -m targets.device serve | selftest | prove | bench | healthcheck"""

from __future__ import annotations

import os
import signal
import sys
from typing import List, NoReturn

USAGE = """usage: python -m targets.device COMMAND

  serve                     serve requests (Open Inference Protocol v2) on PORT (8000) until SIGTERM
  selftest [SHARD [POINTS]] prove the model on its golden images and, if given, on a shard: the gate's report
                            for a drop of at most POINTS (1) of top-1; JSON on stdout, status 0 on a pass
  prove OUT [SHARD]         prove it on the image's shard or on SHARD, and write the proof into the folder OUT:
                            report, predictions, measurements; for a GPU also the engine with its passport and
                            layers, after building it if ENGINE_CACHE has none. Progress as JSON lines on stderr, the
                            report as JSON on stdout, with the comparison if several engines were timed; status 0
                            on a pass, 1 if not proven, 3 if it cannot be judged here
  bench [SECONDS]           measure the model here, in a stable window of SECONDS (10): latency, energy, clocks,
                            temperature, load; JSON on stdout, status 0 if it was stable, 1 with the reasons if
                            not, 3 if the model cannot be opened
  healthcheck               status 0 if the server of this container is ready, else 1
"""


def main(arguments: List[str]) -> int:
    """Return the exit status: 0 done, 1 not proven, stable or ready, 2 wrong usage or setting, 3 cannot be judged."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command == "healthcheck" and not rest:
        return _healthcheck()
    if command == "selftest" and len(rest) <= 2:
        return _selftest(rest)
    if command == "prove" and 1 <= len(rest) <= 2:
        return _prove(rest)
    if command == "bench" and len(rest) <= 1:
        return _bench(rest)
    if command == "serve" and not rest:
        return _serve()
    sys.stderr.write(USAGE)
    return 2


def _healthcheck() -> int:
    from targets.device.healthcheck import is_ready

    port = os.environ.get("PORT", "8000")
    host, is_tls = os.environ.get("HOST") or "127.0.0.1", "TLS_CERTIFICATE" in os.environ
    return 0 if port.isdecimal() and is_ready(int(port), host, is_tls=is_tls) else 1


def _serve() -> int:
    # Before the slow imports: the kernel drops signals that a container's first process does not handle.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    from targets.device.log import log_as_json
    from targets.device.serve import serve
    from targets.device.settings import SettingError, read_settings

    try:
        settings = read_settings()
        log_as_json(settings.log_level)
        serve(settings)
    except SettingError as error:
        return _fail(error, 2)
    return 0


def _stop(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def _prove(arguments: List[str]) -> int:
    import json
    import logging
    from pathlib import Path

    from targets.device.log import log_as_json
    from targets.device.progress import Progress
    from targets.device.prove import prove
    from targets.device.server.service import REFUSALS
    from targets.device.settings import SettingError, read_settings

    stopped: List[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: stopped.append(number))
    try:
        settings = read_settings()
        log_as_json(settings.log_level, sys.stderr)
        shard = Path(arguments[1]) if len(arguments) > 1 else None
        started = prove(settings, Path(arguments[0]), shard, Progress(lambda: bool(stopped)))
    except SettingError as error:
        return _fail(error, 2)
    except REFUSALS as error:
        logging.getLogger(__name__).error("cannot be proven here", extra={"fields": {"reason": str(error)}})
        return 3
    message = "proven" if started.is_proven else "not proven"
    logging.getLogger(__name__).info(message, extra={"fields": {"reason": started.reason}})
    compared = {} if started.comparison is None else {"comparison": started.comparison}
    sys.stdout.write(json.dumps({**(started.report or {}), **compared}) + "\n")
    return 0 if started.is_proven else 1


def _selftest(arguments: List[str]) -> int:
    import json
    from pathlib import Path

    from targets.device.errors import ModelError
    from targets.device.gate.run import MeasureError
    from targets.device.gate.shard import ShardError
    from targets.device.model.image_files import ImageError
    from targets.device.model.manifest import ManifestError
    from targets.device.selftest import MAX_DROP, selftest
    from targets.device.settings import SettingError, read_settings

    try:
        folder = read_settings().model_folder
        max_drop = _points(arguments[1]) if len(arguments) > 1 else MAX_DROP
        report = selftest(folder, Path(arguments[0]) if arguments else None, max_drop=max_drop)
    except SettingError as error:
        return _fail(error, 2)
    except (ModelError, ManifestError, ShardError, ImageError, MeasureError) as error:
        return _fail(error, 1)
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if report["passed"] else 1


def _bench(arguments: List[str]) -> int:
    import json

    from targets.device.bench.bench import SECONDS, bench
    from targets.device.errors import ModelError
    from targets.device.model.manifest import ManifestError
    from targets.device.model.variant import choose
    from targets.device.open_session import open_session
    from targets.device.settings import SettingError, read_settings

    try:
        seconds = _seconds(arguments[0]) if arguments else SECONDS
        chosen = choose(read_settings().model_folder)
        with open_session(chosen.folder, chosen.manifest) as session:
            found = bench(session, shape=(1, *chosen.manifest.input_shape), seconds=seconds)
    except SettingError as error:
        return _fail(error, 2)
    except (ModelError, ManifestError) as error:
        return _fail(error, 3)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if found["stable"] else 1


def _seconds(text: str) -> float:
    from targets.device.settings import SettingError

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise SettingError(f"SECONDS is {text!r}; it must be a number from 0.1 to 3600")
    return value


def _points(text: str) -> float:
    from targets.device.settings import SettingError

    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise SettingError(f"POINTS is {text!r}; it must be a number from 0 to 100")
    return value


def _fail(error: Exception, status: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
