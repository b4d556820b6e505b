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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import median, quantiles
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
from tests.support import find_free_port, wait_until

SENDERS = ("BENCH", "ACME", "390123", "393401234567")
UPSTREAM = "carrier"
# How messages go out, where a bench has an upstream.
UPSTREAM_SETTINGS: Mapping[str, object] = {"--binds": 4, "--window": 100, "--reconnect-seconds": 1}
CREDITS = 1_000_000_000
# Above this share of a core the generator could be what limits the rate.
MAX_GENERATOR_CPU = 0.9
COMPARED = (
    *("then/s", "now/s", "now ÷ then", "then CPU µs", "now CPU µs", "now ÷ then"),
    *("then p99 ms", "now p99 ms", "now ÷ then"),
)


def generator() -> Path:
    """Build the load generator if that has not been done, and return it."""
    source, binary = ROOT / "bench" / "generator.c", ROOT / "build" / "bench" / "generator"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        binary.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=binary.parent) as temporary_file:
            try:
                subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", temporary_file.name, source], check=True)
            except FileNotFoundError:
                raise SystemExit("a C compiler is missing: sudo apt-get install gcc libc6-dev") from None
            binary.unlink(missing_ok=True)
            os.link(temporary_file.name, binary)
    return binary


def command(**options: object) -> list[str]:
    """The generator with its options; a list gives an option several times."""
    arguments = [str(generator())]
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            arguments += [f"--{name.replace('_', '-')}", str(each)]
    return arguments


def measure(**options: object) -> dict[str, Any]:
    """Run the generator to its end, and return what it has counted."""
    completed = subprocess.run(command(**options), stdout=subprocess.PIPE, text=True)
    if completed.returncode:
        raise SystemExit(f"the generator has failed: {' '.join(map(str, completed.args))}")
    result: dict[str, Any] = json.loads(completed.stdout)
    return result


def complaints(result: dict[str, Any]) -> list[str]:
    """What must not happen while a rate is measured."""
    problems = [f"{count} submits refused with {status}" for status, count in result["refused"].items()]
    for name in ("unanswered", "sessions_lost"):
        if result[name]:
            problems.append(f"{name.replace('_', ' ')}: {result[name]}")
    if result["total_receipts"] != result["receipts_expected"]:
        problems.append(f"{result['total_receipts']} receipts for {result['receipts_expected']} messages")
    if result["generator_cpu"] > MAX_GENERATOR_CPU:
        problems.append(f"the generator used {result['generator_cpu']:.0%} of a core: it may be what limits the rate")
    return problems


@dataclass(frozen=True)
class Sink:
    """The load generator as an SMSC, which accepts everything at once."""

    port: int
    process: "subprocess.Popen[str]"

    def ask(self) -> dict[str, Any]:
        """Return what it has counted."""
        self.process.send_signal(signal.SIGUSR1)
        answer: dict[str, Any] = json.loads(self.read_line())
        return answer

    def read_line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline() or sys.exit("the sink has ended")


@contextmanager
def running_sink(**options: object) -> Iterator[Sink]:
    """Run a sink with the generator's options for as long as the block lasts."""
    port = find_free_port()
    with subprocess.Popen(command(sink=port, **options), stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(port))
            yield Sink(port, process)
        finally:
            process.terminate()


@dataclass(frozen=True)
class Installation:
    """A data folder with an operator, one customer and its accounts, which have no limits."""

    data: Path
    port: int
    web_port: int

    @classmethod
    def make(cls, data: Path, accounts: int, limits: str = "") -> "Installation":
        """Make an installation of an empty folder.

        Args:
            accounts: how many, each with credits, senders and the addresses 127.0.0.0/8, without limits of windowing,
                throughput and binds.
            limits: lines of the settings' [limits], where the defaults are in the way.
        """
        installation = cls(data, find_free_port(), find_free_port())
        data.mkdir(parents=True, exist_ok=True)
        (data / settings.FILE_NAME).write_text(
            f"[web]\nport = {installation.web_port}\n"
            f"[smpp]\nport = {installation.port}\ntls_port = 0\n[limits]\n{limits}\n"
        )
        installation.app("init", "--email", "operator@bench.example")
        installation.app("customer", "add", "Bench", "--email", "bench@bench.example")
        installation.add_accounts("accounts", accounts)
        return installation

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

    def add_upstream(
        self,
        port: int,
        system_id: str = "bench",
        password: str = "bench",
        settings: Mapping[str, object] = UPSTREAM_SETTINGS,
        name: str = UPSTREAM,
    ) -> None:
        """Add an upstream of this machine."""
        options = [each for setting in settings.items() for each in setting]
        options += ["--host", "127.0.0.1", "--port", port, "--system-id", system_id, "--password-stdin"]
        self.app("upstream", "add", name, *options, stdin=password)

    def wait_for_upstream(self, state: str = "bound", name: str = UPSTREAM) -> None:
        """Wait until the server says that all binds of the upstream are so."""
        wait_until(lambda: self.app("upstream", "show", name)["state"] == state, deadline_s=30)

    def app(self, *arguments: object, stdin: str = "") -> Any:
        """Run one of the program's commands, and return its answer."""
        output, sys.stdin = StringIO(), StringIO(stdin)
        try:
            with redirect_stdout(output):
                status = cli.main([str(each) for each in (*arguments, "--data", self.data, "--json")])
        finally:
            sys.stdin = sys.__stdin__
        if status:
            raise SystemExit(f"app.py {' '.join(map(str, arguments))}: exit status {status}")
        return json.loads(output.getvalue())

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
        arguments = [sys.executable, *map(str, program or (ROOT / "app.py", "smsc")), "--data", str(self.data)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        log = self.data / "server.log"
        with log.open("ab") as log_file, subprocess.Popen(arguments, env=environment, stderr=log_file) as process:
            try:
                wait_until(lambda: process.poll() is not None or listens(self.port), deadline_s=30)
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


@contextmanager
def checked_out_worktree(commit: str, folder: Path) -> Iterator[Path]:
    """Check out an earlier commit into `folder`, with the packages of this one, and remove it after the block."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=True)
    try:
        (folder / ".venv").symlink_to(VENV)
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", folder], check=True)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def read_cpu_s(process: int) -> float:
    """Seconds of CPU that the threads of a process have used."""
    # The first field is nanoseconds; /proc/…/stat counts in hundredths of a second.
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9


def read_resident_mib(process: int) -> float:
    """MiB of a process's memory that are in use."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def cpu_us(result: dict[str, Any]) -> float:
    """Microseconds of the server's CPU for each message that was acknowledged."""
    return float(result["watched_cpu_s"] / max(result["acknowledged"], 1) * 1e6)


def compare_pairs(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> tuple[list[str], list[float]]:
    """Compare figures then and now.

    Returns:
        The cells of a row under COMPARED: the medians then and now of the rate, CPU and p99, and the median of now ÷
        then with its quartiles; and the quartiles of the rates' now ÷ then.
    """
    cells, quartiles = [], {}
    for figure, number_format in (("rate", "{:,.0f}"), ("cpu", "{:.1f}"), ("p99", "{:.2f}")):
        low, middle, high = quartiles[figure] = quantiles(now[figure] / then[figure] for then, now in pairs)
        cells += [number_format.format(median(side[figure] for side in sides)) for sides in zip(*pairs, strict=True)]
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    return cells, quartiles["rate"]


def is_below_bar(quartiles: Sequence[float], bar: float) -> bool:
    """Whether a ratio is certainly below the bar: its median, and its upper quartile too."""
    _, middle, high = quartiles
    return middle < bar and high < bar


def share(values: Sequence[float], part: float) -> float:
    """The value below which this part of all lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their headings: words on the left of theirs, figures on the right."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    left_aligned = {0, 1, len(head) - 1}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left_aligned else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *rows)
    )
