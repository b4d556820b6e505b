"""A server that speaks clamd's protocol over a real socket, and knows one virus."""

import socketserver
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

# The test file of EICAR, which scanners know; in pieces, so that none takes this file for it.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE" + b"!$H+H*"


class Clamd:
    """`received`: what it was given to scan. `answer`: what it says instead of what it has found.

    `may_answer`: it waits for this before it answers.
    """

    def __init__(self) -> None:
        self.address = ""
        self.received: list[bytes] = []
        self.answer: bytes | None = None
        self.may_answer = Event()
        self.may_answer.set()

    @contextmanager
    def listening(self, path: Path | None = None) -> Iterator["Clamd"]:
        """Listen on a Unix socket, or without a path on a port of loopback."""
        clamd = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                command = b"".join(iter(lambda: self.rfile.read(1), b"\0"))
                if command == b"zPING":
                    self.wfile.write(b"PONG\0" if clamd.answer is None else clamd.answer)
                    return
                assert command == b"zINSTREAM"
                content = b""
                while length := struct.unpack(">I", self.rfile.read(4))[0]:
                    content += self.rfile.read(length)
                clamd.received.append(content)
                clamd.may_answer.wait()
                found = b"Eicar-Test-Signature FOUND" if EICAR in content else b"OK"
                self.wfile.write(b"stream: " + found + b"\0" if clamd.answer is None else clamd.answer)

        server = (
            socketserver.ThreadingUnixStreamServer(str(path), Handler)
            if path
            else socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        )
        self.address = str(path or f"127.0.0.1:{server.socket.getsockname()[1]}")
        with server:
            thread = Thread(target=server.serve_forever, args=[0.01])
            thread.start()
            try:
                yield self
            finally:
                self.may_answer.set()
                server.shutdown()
                thread.join()
