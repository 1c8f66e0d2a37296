"""A way to the Docker engine that can be cut, as when the engine is stopped or the network fails."""

import os
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes between a TCP port and the engine until it is closed, with every connection through it."""

    def __init__(self) -> None:
        self._engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.address = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> "Proxy":
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for thread in self._threads:
            thread.join()
        for end in [self._listening, *self._pairs]:
            end.close()

    def close(self) -> None:
        """Cut every connection and take no new one."""
        for end in [self._listening, *self._pairs]:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _accept(self) -> None:
        while True:
            try:
                ours = self._listening.accept()[0]
            except OSError:
                return
            theirs = self._connect()
            self._pairs += [ours, theirs]
            for source, sink in ((ours, theirs), (theirs, ours)):
                self._threads.append(threading.Thread(target=_pass_on, args=(source, sink)))
                self._threads[-1].start()

    def _connect(self) -> socket.socket:
        url = urlsplit(self._engine)
        if url.scheme == "unix":
            found = socket.socket(socket.AF_UNIX)
            found.connect(url.path)
            return found
        return socket.create_connection((url.hostname or "127.0.0.1", url.port or 2375))


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
