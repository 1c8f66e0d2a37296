"""The engine's containers that a process has started."""

import json
import socket

from docker.models.containers import Container

from pipeline.containers.container import OWNER
from pipeline.containers.engine import Engine


def containers_of(engine: Engine, process: int) -> list[Container]:
    found = engine.client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True)
    return [each for each in found if json.loads(each.labels[OWNER])[:2] == [socket.gethostname(), process]]
