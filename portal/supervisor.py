"""`serve`: the portal and the SMPP server as two child processes, started, watched, and stopped together."""

import errno
import fcntl
import logging
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

from portal.core import db, paths
from portal.core.config import Config, bracketed, reachable
from portal.services.accounts import session_records
from portal.services.common.errors import Refused

_log = logging.getLogger(__name__)

WEB, SMSC = "web", "smsc"
COMPONENTS = (WEB, SMSC)

# What is left of the five seconds that stopping may take goes to the kernel.
_STOP_S = 4.6
_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 5.0
# A child that ran for so long wasn't failing at its start, so the next one gets its chance at once.
_SETTLED_S = 30.0
# After a supervisor was killed, its children need this to end by themselves.
_ORPHANS_S = 6.0
_LOOK_S = 1.0
_OPEN_FILES = 65_536
_FORGET_MS = 200


class AlreadyRunning(Refused):
    sentence = "%(what)s is running on %(data)s already."


class CannotListen(Refused):
    sentence = "%(setting)s: %(reason)s"


# --- one at a time


@contextmanager
def exclusive(data: Path, name: str, wait_s: float = 0.0) -> Iterator[None]:
    """Be the only `serve`, `web` or `smsc` of a data folder.

    Args:
        wait_s: how long to wait for another one to end, in seconds.

    Raises:
        AlreadyRunning
    """
    ends = time.monotonic() + wait_s
    with (data / f"{name}.lock").open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= ends:
                    raise AlreadyRunning(what=name, data=data) from None
                time.sleep(0.05)
        yield


@contextmanager
def component(config: Config, name: str, *, supervised: bool) -> Iterator[None]:
    """Be one of the two processes, alone or as a child of `serve`.

    Args:
        supervised: end when the supervisor does, however it does: it holds the other end of stdin.

    Raises:
        AlreadyRunning, CannotListen
    """
    with exclusive(config.data, name):
        check_ports(config, name)
        raise_file_limit()
        if supervised:
            end_with_starter()
        yield


def raise_file_limit() -> None:
    """Let this process have as many open files as it is allowed to: each connection is one, and shells say 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def end_with_starter() -> None:
    """End when the process does that holds the other end of stdin, however it ends."""
    threading.Thread(target=_end_with_stdin, name="supervised", daemon=True).start()


def _end_with_stdin() -> None:
    # Read past Python's buffer: a daemon thread that sits in it would block the interpreter's own end.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def check_ports(config: Config, *names: str) -> None:
    """Find out now whether the ports can be listened on, so that the answer names the setting.

    Raises:
        CannotListen
    """
    wanted = {
        WEB: [("web", "port", config.web.host, config.web.port)],
        SMSC: [
            ("smpp", "port", config.smpp.host, config.smpp.port),
            ("smpp", "tls_port", config.smpp.host, config.smpp.tls_port),
        ],
    }
    for section, key, host, port in (each for name in names for each in wanted[name]):
        if port:
            _check_port(section, key, host, port)


def _check_port(section: str, key: str, host: str, port: int) -> None:
    where = f"{bracketed(host)}:{port}"
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise CannotListen(setting=f"{section}.host", reason=f"{host} is no address: {error.strerror}") from None
    for family, *_, address in infos:
        try:
            _bind(family, address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = f"{where} is in use by another program"
                raise CannotListen(setting=f"{section}.{key}", reason=reason) from None
            culprit = "host" if error.errno == errno.EADDRNOTAVAIL else key
            reason = f"can't listen on {where}: {os.strerror(error.errno or 0)}"
            raise CannotListen(setting=f"{section}.{culprit}", reason=reason) from None


def _bind(family: int, address: tuple[object, ...]) -> None:
    # Bound and not listened on: a client that tries early must not meet this socket, and be cut off by its end.
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)


# --- serve


def serve(config: Config, options: Sequence[str], on_ready: Callable[[], None] | None = None) -> int:
    """Run both until SIGTERM or SIGINT. The database is there and up to date.

    Args:
        options: `--data` and `--config` as this process got them, for the children.
        on_ready: called once, when the server first takes binds and requests.

    Returns:
        The exit status.

    Raises:
        AlreadyRunning, CannotListen
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s serve %(message)s")
    with exclusive(config.data, "server"):
        for name in COMPONENTS:
            with exclusive(config.data, name, wait_s=_ORPHANS_S):
                check_ports(config, name)
        return Supervisor(config, options).run(on_ready or (lambda: _log.info("ready: %s", config.public_url)))


class Supervisor:
    """Two children and one queue of what happens to them."""

    def __init__(self, config: Config, options: Sequence[str]) -> None:
        self._config = config
        self._options = options
        self._parent = os.getppid()
        self._events: SimpleQueue[str] = SimpleQueue()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._started_at: dict[str, float] = {}
        self._delays = dict.fromkeys(COMPONENTS, _FIRST_DELAY_S)
        self._due: dict[str, float] = {}

    def run(self, on_ready: Callable[[], None]) -> int:
        """Run until told to stop; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._events.put("stop"))
        self._forget(*COMPONENTS)
        for name in COMPONENTS:
            self._start(name)
        threading.Thread(target=self._announce, args=[on_ready], name="announce", daemon=True).start()
        while (event := self._next_event()) != "stop":
            if event:
                self._ended(event)
            for name in [name for name, due in self._due.items() if due <= time.monotonic()]:
                del self._due[name]
                self._start(name)
        return self._stop()

    def _next_event(self) -> str:
        """A child that has ended, "stop", or "" when it is time to look again."""
        wait = min([_LOOK_S, *(due - time.monotonic() for due in self._due.values())])
        try:
            return self._events.get(timeout=max(0.0, wait))
        except Empty:
            # The single binary is two processes, of which this is the inner one: without the outer one, which is what
            # its starter knows and may have killed, it ends too.
            orphaned = getattr(sys, "frozen", False) and os.getppid() != self._parent
            return "stop" if orphaned else ""

    def _start(self, name: str) -> None:
        child = subprocess.Popen(
            [*paths.program(), name, "--supervised", *self._options],
            # The child ends when its stdin does. Nothing is ever written to it.
            stdin=subprocess.PIPE,
            # Ctrl-C in a terminal goes to all of a session's processes; the children are stopped by this one.
            start_new_session=True,
        )
        self._children[name] = child
        self._started_at[name] = time.monotonic()
        threading.Thread(target=self._watch, args=[name, child], name=f"watch {name}", daemon=True).start()

    def _watch(self, name: str, child: "subprocess.Popen[bytes]") -> None:
        child.wait()
        self._events.put(name)

    def _ended(self, name: str) -> None:
        child = self._children.pop(name)
        _close_stdin(child)
        if time.monotonic() - self._started_at[name] > _SETTLED_S:
            self._delays[name] = _FIRST_DELAY_S
        delay = self._delays[name]
        self._delays[name] = min(delay * 2, _LONGEST_DELAY_S)
        _log.error("%s ended (%s); starting it again in %.1f s", name, _how(child.returncode), delay)
        self._forget(name)
        self._due[name] = time.monotonic() + delay

    def _forget(self, *names: str) -> None:
        """Nobody is connected to a process that isn't there, nor is it ready.

        A database that is locked or full doesn't keep a child from being started again: the SMPP server forgets its
        predecessor's sessions by itself, and a heartbeat that has stopped counts for little time.
        """
        try:
            with closing(db.connect(self._config.database, busy_timeout_ms=_FORGET_MS)) as conn:
                for name in names:
                    session_records.gone(conn, name)
                    if name == SMSC:
                        session_records.all_closed(conn)
        except sqlite3.Error as error:
            _log.error("the database can't be written: %s", error)

    def _stop(self) -> int:
        ends = time.monotonic() + _STOP_S
        for child in self._children.values():
            child.send_signal(signal.SIGTERM)
        for name, child in self._children.items():
            try:
                child.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.error("%s didn't stop in time", name)
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            _close_stdin(child)
        self._forget(*COMPONENTS)
        return 0

    def _announce(self, on_ready: Callable[[], None]) -> None:
        while not is_ready(self._config):
            time.sleep(0.05)
        on_ready()


def is_ready(config: Config) -> bool:
    """Whether the server takes binds and requests, as its own `/readyz` says."""
    host = bracketed(reachable(config.web.host))
    request = urllib.request.Request(f"http://{host}:{config.web.port}/readyz")
    if config.web.metrics_token:
        request.add_header("Authorization", f"Bearer {config.web.metrics_token}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def _how(returncode: int) -> str:
    return f"killed by signal {-returncode}" if returncode < 0 else f"exit status {returncode}"


def _close_stdin(child: "subprocess.Popen[bytes]") -> None:
    if child.stdin is not None:
        child.stdin.close()
