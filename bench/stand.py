"""What the SMPP benches share: the load generator, a fresh installation, its server, and what is printed.

Imported first, it starts the bench anew with the project's own Python (`make setup` makes it), so that the benches are
run as they are: `bench/smpp`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
if not VENV.exists():
    sys.exit("first: make setup")
if Path(sys.prefix) != VENV:
    os.execv(VENV / "bin" / "python", [str(VENV / "bin" / "python"), *sys.argv])
sys.path.insert(0, str(ROOT))

from portal import cli
from portal.core import config as settings
from portal.core import db
from tests.support import eventually, free_port

SENDERS = ("BENCH", "ACME", "390123", "393401234567")
CREDITS = 1_000_000_000
# The generator's share of a core from which on it could be what limits the rate.
BUSY = 0.9


def generator() -> Path:
    """Build the load generator if that has not been done, and return it."""
    source, built = ROOT / "bench" / "generator.c", ROOT / "build" / "bench" / "generator"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=built.parent) as made:
            try:
                subprocess.run(["cc", "-O2", "-o", made.name, source], check=True)
            except FileNotFoundError:
                raise SystemExit("a C compiler is missing: sudo apt-get install gcc libc6-dev") from None
            built.unlink(missing_ok=True)
            os.link(made.name, built)
    return built


def command(**options: object) -> list[str]:
    """The generator with its options; a list gives an option several times."""
    words = [str(generator())]
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(each)]
    return words


def measure(**options: object) -> dict[str, Any]:
    """Run the generator to its end, and return what it has counted."""
    ran = subprocess.run(command(**options), stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        raise SystemExit(f"the generator has failed: {' '.join(map(str, ran.args))}")
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def complaints(result: dict[str, Any]) -> list[str]:
    """What must not happen while a rate is measured."""
    found = [f"{count} submits refused with {status}" for status, count in result["refused"].items()]
    for name in ("unanswered", "sessions_lost"):
        if result[name]:
            found.append(f"{name.replace('_', ' ')}: {result[name]}")
    if result["total_receipts"] != result["receipts_expected"]:
        found.append(f"{result['total_receipts']} receipts for {result['receipts_expected']} messages")
    if result["generator_cpu"] > BUSY:
        found.append(f"the generator used {result['generator_cpu']:.0%} of a core: it may be what limits the rate")
    return found


@dataclass(frozen=True)
class Installation:
    """A data folder with an operator, one customer and its accounts, which have no limits."""

    data: Path
    port: int
    web_port: int

    @classmethod
    def make(cls, data: Path, accounts: int, limits: str = "") -> "Installation":
        """An empty folder becomes an installation.

        Args:
            accounts: how many, each with credits, senders and the addresses 127.0.0.0/8, without limits of windowing,
                throughput and binds.
            limits: lines of the settings' [limits], where the defaults are in the way.
        """
        made = cls(data, free_port(), free_port())
        data.mkdir(parents=True, exist_ok=True)
        (data / settings.FILE_NAME).write_text(
            f"[web]\nport = {made.web_port}\n[smpp]\nport = {made.port}\ntls_port = 0\n[limits]\n{limits}\n"
        )
        made.app("init", "--email", "operator@bench.example")
        made.app("customer", "add", "Bench", "--email", "bench@bench.example")
        made.add_accounts("accounts", accounts)
        return made

    def add_accounts(self, file: str, count: int) -> None:
        """Add accounts; `file` gets a line of system_id and password for each, as the generator wants them."""
        unlimited = ("--credits", CREDITS, "--windowing", 0, "--throughput", 0, "--binds", 0)
        lines = []
        for _ in range(count):
            added = self.app("account", "add", "--customer", "Bench", *unlimited)
            name = added["system_id"]
            self.app("ip", "add", name, "127.0.0.0/8")
            for sender in SENDERS:
                self.app("sender", "add", name, sender, "--approve")
            lines.append(f"{name} {added['password']}\n")
        (self.data / file).write_text("".join(lines))

    def app(self, *arguments: object) -> Any:
        """Run one of the program's commands, and return its answer."""
        said = StringIO()
        with redirect_stdout(said):
            status = cli.main([str(each) for each in (*arguments, "--data", self.data, "--json")])
        if status:
            raise SystemExit(f"app.py {' '.join(map(str, arguments))}: exit status {status}")
        return json.loads(said.getvalue())

    @property
    def database(self) -> Path:
        return self.data / db.FILE_NAME

    @property
    def commits(self) -> Path:
        """Where the generator reads how many transactions were committed."""
        return self.data / f"{db.FILE_NAME}-shm"

    @contextmanager
    def running(self, *program: object) -> Iterator[subprocess.Popen[bytes]]:
        """Run a server (`app.py smsc` where nothing else is given) until it can be connected to, then the block."""
        words = [sys.executable, *map(str, program or (ROOT / "app.py", "smsc")), "--data", str(self.data)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        log = self.data / "server.log"
        with log.open("ab") as said, subprocess.Popen(words, env=environment, stderr=said) as process:
            try:
                eventually(lambda: process.poll() is not None or listens(self.port), deadline_s=30)
                if process.poll() is not None:
                    raise SystemExit(f"the server has not started\n{log.read_text()}")
                yield process
            finally:
                process.send_signal(signal.SIGTERM)

    def load(self, process: int, sessions: int, window: int, **options: object) -> dict[str, Any]:
        """Measure with the accounts' sessions; `process` is the server's id, whose CPU is counted."""
        return measure(
            port=self.port,
            accounts=self.data / "accounts",
            sessions=sessions,
            window=window,
            senders=",".join(SENDERS),
            watch=process,
            **options,
        )


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def cpu_us(result: dict[str, Any]) -> float:
    """Microseconds of the server's CPU for each message that was acknowledged."""
    return float(result["watched_cpu_s"] / max(result["acknowledged"], 1) * 1e6)


def share(values: Sequence[float], part: float) -> float:
    """The value below which this part of all lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their headings: words on the left of theirs, figures on the right."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    words = {0, 1, len(head) - 1}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *rows)
    )
