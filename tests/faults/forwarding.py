"""Messages on their way from customers' clients through the program to an upstream, and the proof that all agree."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portal.core import db
from portal.services.common.message_states import REJECTED, UNKNOWN
from portal.services.upstreams import binds
from portal.smsc.protocol.constants import CommandStatus
from tests.faults.carriers import Copy, Upstream
from tests.faults.crowd import ClientCrowd, run_crowd
from tests.serving import find_child_pids
from tests.support import AccountLogin, RunningServer, wait_until

NAME, SECOND_NAME = "carrier", "second"
# Waiting for an upstream is as short as settings allow.
_SETTINGS = {
    "reconnect-seconds": 1,
    "bind-seconds": 1,
    "response-seconds": 2,
    "enquire-link-seconds": 2,
    "throttle-seconds": 1,
    "refund": "refused",
}
DESTINATIONS = 800
UNASKED_EVERY = 5
# As long as what waits at the end takes.
_QUIET_S = 300
# Between two looks at an upstream: each is a command, which would keep a processor from what the test waits for.
_LOOK_EVERY_S = 0.1
# For each upstream its latest receipts are remembered.
_MAX_GROWTH_MB = 24

RunApp = Callable[..., subprocess.CompletedProcess[str]]


@dataclass
class Forwarding:
    """Running: customers' clients send, and the program passes on to its upstream, or to the second one."""

    server: RunningServer
    clients: ClientCrowd
    upstream: Upstream
    data: Path
    run_app: RunApp
    logins: Sequence[AccountLogin]
    granted: int
    is_supervised: bool = True
    second: Upstream | None = None
    rss_before_mb: int = 0

    # --- while it runs

    def show_upstream(self, name: str = NAME) -> dict[str, Any]:
        """What `app.py upstream show` tells."""
        shown: dict[str, Any] = json.loads(self.run_app("upstream", "show", name, "--json").stdout)
        return shown

    def list_copies(self) -> list[Copy]:
        """All submits that upstreams have got."""
        return [each for upstream in (self.upstream, self.second) if upstream for each in upstream.list_copies()]

    def count_unsure(self) -> int:
        """How many messages were unsure."""
        names = [NAME, SECOND_NAME] if self.second else [NAME]
        return sum(self.show_upstream(each)["counters"]["unsure"] for each in names)

    def wait_for(self, is_so: Callable[[dict[str, Any]], bool], deadline_s: float, name: str = NAME) -> None:
        """Wait until what `app.py upstream show` tells fulfils a condition."""
        wait_until(lambda: is_so(self.show_upstream(name)), deadline_s, every_s=_LOOK_EVERY_S)

    def wait_for_state(self, state: str, deadline_s: float = 30) -> None:
        self.wait_for(lambda shown: shown["state"] == state, deadline_s)

    def change_upstream(self, **settings: object) -> None:
        """Change settings of the upstream; `password` is one of them."""
        password = settings.pop("password", None)
        options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
        if password:
            options.append("--password-stdin")
        done = self.run_app("upstream", "change", NAME, *options, stdin=f"{password}\n")
        assert done.returncode == 0, done.stderr

    @property
    def smsc_pid(self) -> int:
        process = self.server.process
        return wait_until(lambda: find_child_pids(process.pid).get("smsc", 0)) if self.is_supervised else process.pid

    def measure_rss_mb(self) -> int:
        """Resident memory of the SMPP server."""
        status = Path(f"/proc/{self.smsc_pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) // 1024

    # --- at its end

    def prove(self, *, was_killed: bool = False, gives_up: bool = False) -> dict[str, int]:
        """Stop sending, wait until all has ended, prove that everyone's records agree, and return the counts.

        Args:
            was_killed: customers' sessions were cut off, and answers to receipts were lost, so that these came again.
            gives_up: what is unsure is not sent again, but ends as unknown.
        """
        self.clients.stop_sending()
        if not was_killed:
            assert self.clients.binds == len(self.clients.clients), "a customer's session was cut off"
            assert not self.clients.refused, f"customers were refused {self.clients.refused}"
        conn = db.connect(self.data / db.FILE_NAME)
        try:
            _wait_for_end_of_all(conn)
            rss_after_mb = self.measure_rss_mb()
            check = json.loads(self.run_app("check", "--json").stdout)
            assert check == {"ok": True, "problems": []}, check
            counts = self._compare_books(conn, gives_up=gives_up)
            counts |= self._count_receipts(conn, may_repeat=was_killed)
        finally:
            conn.close()
        counts |= {"check": 1, "rss_before_mb": self.rss_before_mb, "rss_after_mb": rss_after_mb}
        assert rss_after_mb - self.rss_before_mb < _MAX_GROWTH_MB * (2 if self.second else 1), (
            f"grown from {self.rss_before_mb} to {rss_after_mb} MB"
        )
        return counts

    def _compare_books(self, conn: db.Connection, *, gives_up: bool) -> dict[str, int]:
        """What was acknowledged is stored, what is stored went out and was paid, and its state is what became of it."""
        rows = conn.execute("SELECT id, text, price, state FROM messages").fetchall()
        stored = {row["text"]: row for row in rows}
        assert len(stored) == len(rows), "a message is stored twice"
        acknowledged = self.clients.acknowledged_texts()
        ids = {text: row["id"] for text, row in stored.items()}
        lost = [text for number, text in acknowledged.items() if ids.get(text) != number]
        assert not lost, f"acknowledged, and not there: {lost[:5]}"

        copies = self.list_copies()
        assert {each.text for each in copies} <= stored.keys(), "sent, and not stored"
        outcomes = {each.text: each.outcome for each in copies if each.status == 0}
        answered = {each.text for each in copies if each.status == 0 and each.is_answered}
        refused = {each.text for each in copies if each.status == CommandStatus.ESME_RINVDSTADR}
        given_up = {text for text, row in stored.items() if row["state"] == UNKNOWN}
        missing = stored.keys() - answered - refused - given_up
        assert not missing, f"{len(missing)} messages are missing upstream: {sorted(missing)[:5]}"
        # What it has not decided it may have taken.
        taken = Counter(each.text for each in copies if each.status in (0, None))
        doubles = taken.total() - len(taken)
        unsure = self.count_unsure()
        assert doubles <= unsure, f"{doubles} doubles, and {unsure} were unsure"
        if gives_up:
            assert not doubles, f"{doubles} doubles, though nothing unsure is sent again"
            assert len(given_up) <= unsure, f"{len(given_up)} given up, {unsure} were unsure"
        else:
            assert not given_up, f"{len(given_up)} given up, though what is unsure is sent again"

        expected = outcomes | dict.fromkeys(refused, REJECTED) | dict.fromkeys(given_up, UNKNOWN)
        wrong = {text: (row["state"], expected[text]) for text, row in stored.items() if row["state"] != expected[text]}
        assert not wrong, f"{len(wrong)} messages have not become what the upstream says: {list(wrong.items())[:5]}"
        paid = sum(row["price"] for row in rows if row["state"] != REJECTED)
        balances = dict(conn.execute("SELECT id, balance FROM accounts").fetchall())
        spent = sum(self.granted - balances[each.id] for each in self.logins)
        assert spent == paid, f"{spent} were spent on messages that cost {paid}"
        return {
            "acknowledged": len(acknowledged),
            "stored": len(stored),
            "upstream": len(copies),
            "missing": len(missing),
            "doubles": doubles,
            "unsure": unsure,
            "refused": len(refused),
            "given_up": len(given_up),
        }

    def _count_receipts(self, conn: db.Connection, *, may_repeat: bool) -> dict[str, int]:
        """Each message that has asked for a receipt has one, which says what became of it; no other has any."""
        asked = {
            row["id"]: row["state"]
            for row in conn.execute("SELECT id, state FROM messages WHERE registered_delivery <> 0")
        }
        receipts = self.clients.count_receipts()
        other = receipts.keys() ^ asked.keys()
        assert not other, f"{len(other)} messages have no receipt, or one that was not asked for: {sorted(other)[:5]}"
        repeated = sum(count > 1 for count in receipts.values())
        assert may_repeat or not repeated, f"{repeated} receipts came more than once"
        told = self.clients.final_states()
        wrong = {number: (told[number], state) for number, state in asked.items() if told[number] != state}
        assert not wrong, f"{len(wrong)} receipts tell another state: {list(wrong.items())[:5]}"
        # Of what it keeps of its upstream's receipts: which are of nothing that it knows, and which say nothing new.
        (unmatched,) = conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()
        (late_twins,) = conn.execute(
            "SELECT count(*) FROM unmatched_receipts WHERE message_id IN (SELECT upstream_id FROM messages)"
        ).fetchone()
        return {
            "receipts": len(receipts),
            "receipts_twice": repeated,
            "unmatched": unmatched - late_twins,
            "late_twins": late_twins,
        }


def _wait_for_end_of_all(conn: db.Connection) -> None:
    """Wait until all messages have ended, and customers have accepted all receipts."""
    unfinished = "SELECT EXISTS (SELECT 1 FROM messages WHERE state = 1) OR EXISTS (SELECT 1 FROM deliveries)"
    try:
        wait_until(lambda: not conn.execute(unfinished).fetchone()[0], _QUIET_S)
    except AssertionError:
        tables = ("messages WHERE state = 1", "queued_messages", "held_messages", "deliveries")
        left = {each: conn.execute(f"SELECT count(*) FROM {each}").fetchone()[0] for each in tables}
        raise AssertionError(f"still there after {_QUIET_S} s: {left}") from None


def add_upstream(run_app: RunApp, upstream: Upstream, name: str, settings: Mapping[str, object]) -> None:
    """Add an upstream, with short times where its settings say nothing else."""
    values = {**_SETTINGS, **settings, "host": "127.0.0.1", "port": upstream.port, "system-id": upstream.login.name}
    options = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = run_app("upstream", "add", name, *options, "--password-stdin", stdin=f"{upstream.login.password}\n")
    assert done.returncode == 0, done.stderr


@contextmanager
def run_forwarding(
    start: Callable[[], RunningServer],
    run_app: RunApp,
    data: Path,
    logins: Sequence[AccountLogin],
    granted: int,
    upstream: Upstream,
    *,
    backlog: int,
    is_supervised: bool,
    second: Upstream | None = None,
    destinations: int = DESTINATIONS,
    **settings: object,
) -> Iterator[Forwarding]:
    """Have messages forwarded under load, from the moment on when all clients have got some receipts.

    Args:
        start: starts the program; all of it, or where it is not supervised the SMPP server alone.
        granted: the credits with which each account has begun.
        backlog: how many receipts may be owed to a client.
        second: takes over from the first one; and the first from it, for the first account's messages.
        destinations: how many numbers the clients write to.
        settings: those of the upstream that differ from short times.
    """
    add_upstream(run_app, upstream, NAME, settings)
    if second:
        add_upstream(run_app, second, SECOND_NAME, settings)
        for names, conditions in (
            (f"{SECOND_NAME},{NAME}", ("--account", logins[0].name)),
            (f"{NAME},{SECOND_NAME}", ()),
        ):
            done = run_app("route", "add", "--upstream", names, *conditions)
            assert done.returncode == 0, done.stderr
    server = start()
    with run_crowd(
        server.port, *logins, backlog=backlog, destinations=destinations, unasked_every=UNASKED_EVERY
    ) as clients:
        forwarding = Forwarding(server, clients, upstream, data, run_app, logins, granted, is_supervised, second)
        clients.wait_for_receipts(50)
        assert forwarding.show_upstream()["state"] == binds.BOUND
        forwarding.rss_before_mb = forwarding.measure_rss_mb()
        yield forwarding
