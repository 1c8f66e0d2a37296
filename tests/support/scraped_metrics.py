"""What a server counts, by the name of the counter."""

from device_server import Running


def metrics(running: Running) -> str:
    with running.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with connection.makefile("rb") as stream:
            return stream.read().decode()
