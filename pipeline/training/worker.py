"""`python -m pipeline.training.worker FOLDER RANK PROCESSES`: one process of a training."""

import os
import pickle
import shutil
import sys
import threading
from pathlib import Path

from pipeline.errors import DeployError
from pipeline.progress import Silent
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.distributed import MEETING, TRAINING, join_process_group, ready
from pipeline.training.loop import Training


def main() -> None:
    keep_freed_memory()
    folder, rank, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    threading.Thread(target=_end_with_the_first, args=(folder,), daemon=True).start()
    training: Training = pickle.loads((folder / TRAINING).read_bytes())
    ready(folder, rank).touch()
    try:
        with join_process_group(rank, processes, meeting=folder / MEETING) as ranks:
            training.run(ranks, selection=None, continuation=None, progress=Silent())
    except DeployError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        os._exit(error.exit_code)  # the others may wait for this process, which must not wait for them


def _end_with_the_first(folder: Path) -> None:
    # Unbuffered: at exit the interpreter would wait for the lock of a buffer.
    os.read(sys.stdin.fileno(), 1)
    shutil.rmtree(folder, ignore_errors=True)  # the killed parent could not
    os._exit(1)


if __name__ == "__main__":
    main()
