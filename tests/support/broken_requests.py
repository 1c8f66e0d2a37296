"""What the fuzz test sends: bytes over a socket that are a request in every degree, from none at all to a good one."""

import base64
import gzip
import json
import struct
import zlib
from typing import Any

from device_server import INFER, binary_request, http_request, images, json_request
from hypothesis import strategies as st
from tiny_package import colorful, png

from targets.device.server.protocol import LENGTH_HEADER

ONE = images(1)
GOOD = json.dumps(json_request(ONE)).encode()
HEADER, TENSOR = binary_request(ONE)
PHOTO = png(colorful(1, seed=3)[0])
PATHS = [INFER, INFER, "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny", "/metrics", "/status.json"]
PATHS += ["/", "*", "/v2/models/", "/v2/models//infer", "/v2/models/%ff/infer", "/v2/models/tiny/versions/9/infer"]
PATHS += [f"http://other:1{INFER}", "http://[", "//v2", "/v2/../etc/passwd", f"{INFER}?a=b#c", "/" + "a" * 3000, "é"]
METHODS = ["POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "post", "", "X" * 300]
VERSIONS = ["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "HTTP/1.1 ", "", "ICE/1.0"]
VALUES = ["", "0", "1", "-1", "+5", " 7 ", "3, 3", "99999", "1048577", "9" * 12, "9" * 30, "0x10", "٣", "\x01", "é"]
NAMES = ["Host", "Content-Length", "Transfer-Encoding", "Content-Encoding", "Accept-Encoding", "Expect", "Connection"]
NAMES += ["Upgrade", LENGTH_HEADER, "Authorization", "Content-Type", "", "A b", "é", "X" * 300]
VALUES += ["chunked", "gzip, chunked", "chunked, gzip", "identity", "gzip", "deflate", "br", "gzip;q=x, deflate;q=nan"]
VALUES += ["100-continue", "200-ok", "close", "keep-alive", "Upgrade", "websocket", "h2c", "a" * 5000, "a\r\n folded"]
ODD: list[Any] = [None, True, -1, 0, 1, 2**31, 2**63, 10**300, 1.5, float("nan"), float("inf"), -0.0, "", "1", "FP32"]
ODD += ["UINT8", "BYTES", "pixels", "encoded", "\ud800", "\0", [], [[]], [[[[]]]], {}, [None], ["a"], {"a": [1]}]
ODD += [[1, [2]], [[1], [2, 3]], [2**31 - 1] * 8, [1, 3, 8, 8], [4096], [0, 3, 8, 8], [1, 8, 8, 3], [2, 3, 8, 8]]
FIELDS = ["name", "shape", "datatype", "data", "parameters"]
Raw = st.SearchStrategy[bytes]


def encoded(*files: bytes) -> bytes:
    data = [base64.b64encode(each).decode() for each in files]
    return json.dumps(
        {"inputs": [{"name": "encoded", "shape": [len(data)], "datatype": "BYTES", "data": data}]}
    ).encode()


def bomb(width: int, height: int) -> bytes:
    """A PNG of so many pixels, all of one color."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * min((width + 1) * height, 20_000_000), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BOMBS = [bomb(4000, 4000), bomb(2**31 - 1, 2**31 - 1), bomb(1024, 1024), bomb(16, 65_536), bomb(1, 1_000_000)]
GZIPPED, DEFLATED = gzip.compress(GOOD), zlib.compress(GOOD)
INFLATING = gzip.compress(b" " * 30_000_000)
BODIES = [GOOD, HEADER + TENSOR, encoded(PHOTO), GZIPPED, DEFLATED, b"", b"[" * 5000, b"\xff\xfe", b"\0" * 500]


def chunked(body: bytes, *headers: str) -> bytes:
    head = [f"POST {INFER} HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", *headers, "", ""]
    return "\r\n".join(head).encode() + b"%x;a=b\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (len(body), body)


GOODS = [
    http_request(GOOD),
    http_request(HEADER + TENSOR, f"{LENGTH_HEADER}: {len(HEADER)}"),
    http_request(GZIPPED, "Content-Encoding: gzip"),
    http_request(DEFLATED, "Content-Encoding: deflate", "Accept-Encoding: gzip"),
    http_request(encoded(PHOTO)),
    http_request(GOOD, "Expect: 100-continue"),
    http_request(GOOD, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
    chunked(GOOD),
    b"GET /v2 HTTP/1.0\r\n\r\n",
]


@st.composite
def changed(draw: st.DrawFn, sources: list[bytes], most: int = 3) -> bytes:
    """One of `sources` after some bytes of it were replaced, cut out, doubled or put in."""
    data = draw(st.sampled_from(sources))
    for _ in range(draw(st.integers(0, most))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        length, new = draw(st.integers(0, 40)), draw(st.binary(max_size=6))
        data = (
            data[:start]
            + new
            + draw(st.sampled_from([b"", data[start : start + length] * 2]))
            + (data[start + draw(st.sampled_from([0, len(new), length])) :])
        )
    return data


@st.composite
def wild(draw: st.DrawFn) -> bytes:
    """Any method, path, version, headers and body together."""
    words = [draw(st.sampled_from(each)) for each in (METHODS, PATHS, VERSIONS)]
    pairs = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4))
    body = draw(st.sampled_from(BODIES))
    lines = [
        " ".join(words),
        *draw(st.sampled_from([["Host: a"], []])),
        *(f"{name}: {value}" for name, value in pairs),
    ]
    if draw(st.booleans()):
        lines.append(f"Content-Length: {len(body) + draw(st.sampled_from([0, 0, 0, -3, 3, 100]))}")
    end = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r"]))
    return end.join([*lines, "", ""]).encode() + body


@st.composite
def odd_json(draw: st.DrawFn) -> bytes:
    """A request whose JSON has something odd in it."""
    entry = dict(json_request(ONE)["inputs"][0])
    for name, value in draw(st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(ODD)), max_size=3)):
        entry[name] = value
    tree: dict[str, Any] = {"inputs": [entry], **draw(st.dictionaries(ODD_NAMES, st.sampled_from(ODD), max_size=1))}
    return http_request(json.dumps(tree).encode())


ODD_NAMES = st.sampled_from(["id", "outputs", "parameters", "inputs", "more"])


@st.composite
def odd_binary(draw: st.DrawFn) -> bytes:
    """A binary request that lies about one of its lengths, or about what is behind the JSON."""
    size = draw(st.sampled_from([*ODD, len(TENSOR), len(TENSOR), len(TENSOR) - 4, 3]))
    kinds: list[dict[str, Any]] = [{}, {}, {"datatype": "BYTES", "name": "encoded", "shape": [2]}, {"shape": [9]}]
    changes = draw(st.sampled_from(kinds))
    header, tensor = binary_request(ONE, parameters={"binary_data_size": size}, **changes)
    length = draw(st.sampled_from([len(header)] * 4 + [0, 1, len(header) + 9, 10**11]))
    tail = draw(st.sampled_from([tensor, tensor, b"", b"\xff" * len(tensor), tensor + b"x", b"\x05\0\0\0hello" * 3]))
    return http_request(header + tail, f"{LENGTH_HEADER}: {length}")


@st.composite
def odd_image(draw: st.DrawFn) -> bytes:
    """Files that are broken, or much larger than they look."""
    if draw(st.integers(0, 9)) == 0:
        return http_request(encoded(draw(st.sampled_from(BOMBS))))
    return http_request(encoded(draw(changed([PHOTO]))))


@st.composite
def odd_coding(draw: st.DrawFn) -> bytes:
    """Compressed bodies that are broken, bombs, or not what is said of them."""
    name = draw(st.sampled_from(["gzip", "deflate", "GZIP", "gzip, gzip", "br", "identity"]))
    if draw(st.integers(0, 9)) == 0:
        return http_request(INFLATING, "Content-Encoding: gzip")
    body = draw(changed([GZIPPED, DEFLATED, GOOD]))
    return draw(st.sampled_from([http_request, chunked]))(body, f"Content-Encoding: {name}")


one: Raw = st.one_of(
    *(changed(GOODS), changed(GOODS, most=1), wild(), wild(), odd_json(), odd_json(), odd_binary()),
    *(odd_image(), odd_coding(), changed([chunked(GOOD)]), st.binary(max_size=200)),
)
ahead: Raw = st.lists(one, min_size=2, max_size=4).map(b"".join)
conversations = st.lists(st.one_of(one, one, one, one, ahead), min_size=20, max_size=20)
"""What twenty clients send, one after the other; counted as twenty requests, though some send several."""
