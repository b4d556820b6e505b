"""How long a change takes to reach a bound client: from its commit in one process to the unbind on the wire in another.

    .venv/bin/python bench/propagation.py [CHANGES]

On a fresh data folder it starts the real SMPP process, binds a client, commits a change as the portal does (an IP
removed, a new password without grace, the account disabled, in turn), and stops the clock when the unbind has arrived.
Prints one table.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from portal import migrations
from portal.core import config as settings
from portal.core import db
from portal.core.crypto import Keys
from portal.core.wakeup import WakeupSender
from portal.services.accounts import accounts, allowed_ips, credentials, session_records
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.people import customers
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import CommandId
from portal.smsc.protocol.pdu import (
    Bind,
    HeaderOnlyPdu,
)
from tests.support import find_free_port, wait_until

CHANGES = 200
TARGET_MS = 50.0


class PropagationBench:
    """One account, one SMPP process, one client after the other."""

    def __init__(self, data: Path) -> None:
        port, tls_port, web_port = find_free_port(), find_free_port(), find_free_port()
        (data / settings.FILE_NAME).write_text(
            f"[web]\nport = {web_port}\n[smpp]\nport = {port}\ntls_port = {tls_port}\n[limits]\nbind_failures = 1000\n"
        )
        self.port = port
        Keys.create(data)
        migrations.migrate(data / db.FILE_NAME)
        self.keys = Keys.load(data)
        self.conn = db.connect(data / db.FILE_NAME, on_commit=self._notify_commit)
        self._wakeup_sender = WakeupSender(data)
        customer = customers.create_customer(self.conn, SHELL, "Bench", "bench@bench.example")
        self.account: Account = accounts.create_account(self.conn, SHELL, customer.id, name="smpp-bench")
        self.password = ""
        self.committed_at = 0.0
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
        self.process = subprocess.Popen([sys.executable, ROOT / "app.py", "smsc", "--data", data], env=environment)
        wait_until(lambda: session_records.is_component_alive(self.conn, "smsc"))

    def _notify_commit(self) -> None:
        self.committed_at = time.perf_counter()
        self._wakeup_sender.send()

    def restore(self) -> None:
        """Bring the account back to where its client may bind, and wait until the server agrees."""
        accounts.enable_account(self.conn, SHELL, self.account)
        if not allowed_ips.list_allowed_ips(self.conn, self.account.id):
            allowed_ips.add_allowed_ip(self.conn, SHELL, self.account, "127.0.0.1")
        self.password = credentials.regenerate_smpp_password(self.conn, self.keys, SHELL, self.account, send_mail=False)
        wait_until(lambda: accounts.get_account(self.conn, self.account.name).status == accounts.SUCCESS)

    def remove_ip(self) -> None:
        (allowed_ip,) = allowed_ips.list_allowed_ips(self.conn, self.account.id)
        allowed_ips.remove_allowed_ip(self.conn, SHELL, self.account, allowed_ip.id)

    def change_password(self) -> None:
        credentials.regenerate_smpp_password(self.conn, self.keys, SHELL, self.account, send_mail=False)

    def disable(self) -> None:
        accounts.disable_account(self.conn, SHELL, self.account)

    def measure(self, change: Callable[[], None]) -> float:
        """Return the milliseconds from the commit of `change` to the unbind."""
        self.restore()
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            client.sendall(Bind(CommandId.BIND_TRANSCEIVER, 1, self.account.name, self.password).encode())
            assert receive(client).status == 0, "the bind was refused"
            change()
            unbind = receive(client)
            duration_ms = (time.perf_counter() - self.committed_at) * 1000
            assert unbind.command == CommandId.UNBIND
            client.sendall(HeaderOnlyPdu(CommandId.UNBIND_RESP, unbind.sequence).encode())
            assert client.recv(1) == b"", "the connection was not closed"
        return duration_ms

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.conn.close()


def receive(client: socket.socket) -> pdu.PduHeader:
    """Return the header of the next PDU, its body read and dropped."""
    header = pdu.decode_header(receive_exactly(client, pdu.HEADER_LENGTH), 0)
    assert header is not None
    receive_exactly(client, header.length - pdu.HEADER_LENGTH)
    return header


def receive_exactly(client: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        received = client.recv(count - len(octets))
        assert received, "the server has closed the connection"
        octets += received
    return octets


def format_row(name: str, times: list[float]) -> str:
    ordered = sorted(times)
    p50, p99 = (ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.5, 0.99))
    return f"{name:<22} {len(ordered):>7} {p50:>8.2f} {p99:>8.2f} {ordered[-1]:>8.2f}"


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CHANGES
    with tempfile.TemporaryDirectory(prefix="smpp-propagation-") as folder:
        bench = PropagationBench(Path(folder))
        try:
            changes = {"IP removed": bench.remove_ip, "new password": bench.change_password, "disabled": bench.disable}
            names = list(changes)
            times: dict[str, list[float]] = {name: [] for name in names}
            for number in range(count):
                name = names[number % len(names)]
                times[name].append(bench.measure(changes[name]))
        finally:
            bench.close()
    all_times = [each for measured in times.values() for each in measured]
    print(f"{'commit to unbind, ms':<22} {'changes':>7} {'p50':>8} {'p99':>8} {'max':>8}")
    for name, measured in times.items():
        if measured:
            print(format_row(name, measured))
    print(format_row("all", all_times))
    return 0 if sorted(all_times)[min(int(len(all_times) * 0.99), len(all_times) - 1)] < TARGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
