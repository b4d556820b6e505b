"""`serve`: runs the portal and the SMPP server as two child processes, restarts them, and stops them together."""

import errno
import logging
import os
import resource
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from queue import Empty, SimpleQueue

from portal import __version__, migrations
from portal.core import db, paths
from portal.core.config import Config, bracket_ipv6, wildcard_to_loopback
from portal.services.accounts import session_records
from portal.services.common.errors import Refused
from portal.services.operations.folder_locks import SERVER, SMSC, WEB, hold_component_lock

_log = logging.getLogger(__name__)

COMPONENTS = (WEB, SMSC)

# Stopping may take five seconds in all; the rest is a reserve for the end of the processes.
_STOP_TIMEOUT_S = 4.6
_FIRST_DELAY_S = 0.2
_MAX_DELAY_S = 5.0
# After a child ran for so long, the delays before restarts begin with the first one again.
_STABLE_AFTER_S = 30.0
# After a supervisor was killed, its children end by themselves within this time.
_ORPHAN_TIMEOUT_S = 6.0
_POLL_S = 1.0
_MAX_OPEN_FILES = 65_536
_CLEANUP_BUSY_TIMEOUT_MS = 200


class PortUnavailable(Refused):
    sentence = "%(setting)s: %(reason)s"


# --- one process of each kind


@contextmanager
def run_as_component(config: Config, name: str, *, supervised: bool) -> Iterator[None]:
    """Prepare this process to be `web` or `smsc`, alone or as a child of `serve`, and hold its lock.

    Args:
        supervised: end this process when the supervisor ends, for whatever reason; it has the other end of stdin.

    Raises:
        AlreadyRunning, PortUnavailable
    """
    with hold_component_lock(config.data, name):
        check_ports(config, name)
        increase_open_file_limit()
        if supervised:
            exit_with_parent()
        yield


def increase_open_file_limit() -> None:
    """Raise this process's limit of open files as far as allowed: each connection is one, and shells set 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    new_limit = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < new_limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (new_limit, hard))


def exit_with_parent() -> None:
    """End this process when the one that has the other end of stdin ends, for whatever reason."""
    threading.Thread(target=_exit_on_stdin_eof, name="supervised", daemon=True).start()


def _exit_on_stdin_eof() -> None:
    # Without Python's buffer: a daemon thread that waits in it would block the interpreter's shutdown.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def check_ports(config: Config, *names: str) -> None:
    """Check before the start that the ports can be listened on, so that the error names the setting.

    Raises:
        PortUnavailable
    """
    for name, section, key, host, port in (
        (WEB, "web", "port", config.web.host, config.web.port),
        (SMSC, "smpp", "port", config.smpp.host, config.smpp.port),
        (SMSC, "smpp", "tls_port", config.smpp.host, config.smpp.tls_port),
    ):
        if port and name in names:
            _check_port(section, key, host, port)


def _check_port(section: str, key: str, host: str, port: int) -> None:
    endpoint = f"{bracket_ipv6(host)}:{port}"
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in infos:
            # Bound, but not listening: an early client must not connect to this socket, which is closed at once.
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        reason = f"can't listen on {endpoint}: {os.strerror(error.errno or 0)}"
        if isinstance(error, socket.gaierror):
            key, reason = "host", f"{host} is no address: {error.strerror}"
        elif error.errno == errno.EADDRINUSE:
            reason = f"{endpoint} is in use by another program"
        elif error.errno == errno.EADDRNOTAVAIL:
            key = "host"
        raise PortUnavailable(setting=f"{section}.{key}", reason=reason) from None


# --- serve


@contextmanager
def hold_server_lock(config: Config) -> Iterator[None]:
    """Be the only `serve` of a data folder, and begin its log.

    Children of one that was killed have ended then, and the ports can be listened on.

    Raises:
        AlreadyRunning, PortUnavailable
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s serve %(message)s")
    with hold_component_lock(config.data, SERVER):
        for name in COMPONENTS:
            with hold_component_lock(config.data, name, wait_s=_ORPHAN_TIMEOUT_S):
                check_ports(config, name)
        _log.info("SMPP Portal %s", __version__)
        yield


class Supervisor:
    """Starts, restarts and stops the two child processes; their exits and signals come through one queue.

    It runs within `hold_server_lock`, on a database that is up to date.
    """

    def __init__(self, config: Config, options: Sequence[str], on_ready: Callable[[], None] | None = None) -> None:
        """Args:
        options: `--data` and `--config` as this process got them, for the children.
        on_ready: called once, when the server first accepts binds and requests.
        """
        # Where this machine is a trusted proxy, the pages' process tells nothing without one.
        token = config.web.metrics_token or secrets.token_urlsafe()
        self._config = replace(config, web=replace(config.web, metrics_token=token))
        self._options = options
        self._on_ready = on_ready
        self._parent = os.getppid()
        self._events: SimpleQueue[str] = SimpleQueue()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._started_at: dict[str, float] = {}
        self._delays = dict.fromkeys(COMPONENTS, _FIRST_DELAY_S)
        self._restart_at: dict[str, float] = {}

    def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._events.put("stop"))
        self._delete_stale_runtime_rows(*COMPONENTS)
        for name in COMPONENTS:
            self._start_child(name)
        threading.Thread(target=self._report_ready, name="announce", daemon=True).start()
        while (event := self._wait_for_event()) != "stop":
            if event:
                self._handle_exit(event)
            for name in [name for name, due in self._restart_at.items() if due <= time.monotonic()]:
                del self._restart_at[name]
                self._start_child(name)
        self._stop_children()

    def _wait_for_event(self) -> str:
        """The name of a child that has ended, "stop", or "" when it is time to check for due restarts."""
        wait = min([_POLL_S, *(due - time.monotonic() for due in self._restart_at.values())])
        try:
            return self._events.get(timeout=max(0.0, wait))
        except Empty:
            # The single binary runs as two processes; this is the inner one. Somebody may have killed the outer one,
            # which is the one that they know: then this one ends, too.
            orphaned = getattr(sys, "frozen", False) and os.getppid() != self._parent
            return "stop" if orphaned else ""

    def _start_child(self, name: str) -> None:
        child = subprocess.Popen(
            [*paths.get_program_command_line(), name, "--supervised", *self._options],
            # The child ends when its stdin is closed. Nothing is ever written to it.
            stdin=subprocess.PIPE,
            env=os.environ | {"PORTAL_WEB_METRICS_TOKEN": self._config.web.metrics_token},
            # Ctrl-C in a terminal goes to all processes of the session; the children are stopped by this one.
            start_new_session=True,
        )
        self._children[name] = child
        self._started_at[name] = time.monotonic()
        threading.Thread(target=self._wait_for_exit, args=[name, child], name=f"watch {name}", daemon=True).start()

    def _wait_for_exit(self, name: str, child: "subprocess.Popen[bytes]") -> None:
        child.wait()
        self._events.put(name)

    def _handle_exit(self, name: str) -> None:
        child = self._children.pop(name)
        # This closes its stdin.
        child.communicate()
        if time.monotonic() - self._started_at[name] > _STABLE_AFTER_S:
            self._delays[name] = _FIRST_DELAY_S
        delay, status = self._delays[name], child.returncode
        self._delays[name] = min(delay * 2, _MAX_DELAY_S)
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        _log.error("%s ended (%s); starting it again in %.1f s", name, how, delay)
        self._delete_stale_runtime_rows(name)
        self._restart_at[name] = time.monotonic() + delay

    def _delete_stale_runtime_rows(self, *names: str) -> None:
        """Delete the heartbeats of components that don't run, and the open sessions of the SMPP server.

        If the database is locked or full, the child is started again all the same: the SMPP server deletes its
        predecessor's sessions itself, and an old heartbeat is soon ignored.
        """
        try:
            with closing(db.connect(self._config.database_file, busy_timeout_ms=_CLEANUP_BUSY_TIMEOUT_MS)) as conn:
                for name in names:
                    session_records.remove_component_heartbeat(conn, name)
                    if name == SMSC:
                        session_records.close_all_smpp_sessions(conn)
        except sqlite3.Error as error:
            _log.error("the database can't be written: %s", error)

    def _stop_children(self) -> None:
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for child in self._children.values():
            child.send_signal(signal.SIGTERM)
        for name, child in self._children.items():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.error("%s didn't stop in time", name)
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
        self._delete_stale_runtime_rows(*COMPONENTS)

    def _report_ready(self) -> None:
        while not is_ready(self._config):
            time.sleep(0.05)
        if self._on_ready:
            self._on_ready()
        else:
            _log.info("ready: %s", self._config.public_url)
        try:
            # Not before: until here somebody may want to go back.
            migrations.remove_old_copies(self._config.data, keep=self._config.retention.backups)
        except OSError as error:
            _log.error("old copies can't be removed: %s", error)


def is_ready(config: Config) -> bool:
    """Whether the server accepts binds and requests, according to its own `/readyz`."""
    host = wildcard_to_loopback(config.web.host)
    authorization = f"Authorization: Bearer {config.web.metrics_token}"
    request = f"GET /readyz HTTP/1.0\r\nHost: {bracket_ipv6(host)}:{config.web.port}\r\n{authorization}\r\n\r\n"
    try:
        # Without urllib: it takes a start 50 ms to import, and this process keeps 6 MB of it for as long as it runs.
        with socket.create_connection((host, config.web.port), timeout=2) as connection:
            connection.sendall(request.encode())
            with connection.makefile("rb") as answer:
                return answer.readline().split()[1:2] == [b"200"]
    except OSError:
        return False
