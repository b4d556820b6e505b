"""Asking clamd, ClamAV's daemon, whether a file holds something harmful that it knows (INSTREAM, see clamd(8))."""

import socket
import struct

from portal.core.config import parse_socket_address

# Of connecting, of sending, and of waiting for the answer.
_TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 4096


def scan_content(address: str, content: bytes) -> str:
    """Return the name of what clamd has found in this content; empty: nothing.

    Args:
        address: `host:port`, or the path of a Unix socket.

    Raises:
        OSError: it can't be asked, or its answer is neither: it has an error, or nothing that is whole.
    """
    text = _ask(address, b"zINSTREAM\0" + struct.pack(">I", len(content)), content, struct.pack(">I", 0))
    if text == "stream: OK\0":
        return ""
    if text.startswith("stream: ") and text.endswith(" FOUND\0"):
        return text.removeprefix("stream: ").removesuffix(" FOUND\0")
    raise OSError(f"clamd has answered {text[:200]!r}")


def ping(address: str) -> None:
    """Ask clamd whether it is there (PING).

    Args:
        address: as for `scan_content`.

    Raises:
        OSError: it can't be asked, or answers something else.
    """
    text = _ask(address, b"zPING\0")
    if text != "PONG\0":
        raise OSError(f"it has answered {text[:200]!r}")


def _ask(address: str, *parts: bytes) -> str:
    with _connect(parse_socket_address(address)) as connection:
        for each in parts:
            connection.sendall(each)
        answer = b""
        while not answer.endswith(b"\0") and len(answer) < _MAX_ANSWER_BYTES:
            received = connection.recv(_MAX_ANSWER_BYTES)
            if not received:
                break
            answer += received
    return answer.decode("utf-8", "replace")


def _connect(address: str | tuple[str, int]) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout=_TIMEOUT_S)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
