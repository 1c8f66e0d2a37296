"""`deploy bench`: which of these is faster, here, now."""

import json
from dataclasses import asdict
from pathlib import Path

from pipeline.bench import bench
from pipeline.table import print_table


def run(models: list[Path], *, threads: int, as_json: bool) -> None:
    """Time `models` interleaved in one run; ratios are against the first."""
    latencies = bench(models, threads=threads)
    if as_json:
        rows = [{"model": str(path), **asdict(latency)} for path, latency in zip(models, latencies, strict=True)]
        print(json.dumps(rows, indent=2))
        return
    first = latencies[0].cpu_ms
    header = ("model", "CPU ms", "ratio", "wall ms", "wall p90 ms")
    print_table(
        f"batch 1, {threads} thread{'s' if threads > 1 else ''}, {latencies[0].runs} interleaved runs",
        header,
        [
            (
                str(path),
                f"{latency.cpu_ms:.3f}",
                f"{latency.cpu_ms / first:.2f}",
                f"{latency.wall_ms:.3f}",
                f"{latency.wall_p90_ms:.3f}",
            )
            for path, latency in zip(models, latencies, strict=True)
        ],
    )
