"""Kannel 1.4.5 as Debian packages it: bearerbox and smsbox, configured as its user guide says and driven over HTTP."""

import itertools
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.smpplib_esme import NUMBER
from tests.support import AccountLogin, find_free_port, wait_until

_BEARERBOX, _SMSBOX = "/usr/sbin/bearerbox", "/usr/sbin/smsbox"
_SECRET = "kannel"

_CONFIGURATION = """
group = core
admin-port = {admin_port}
admin-interface = 127.0.0.1
admin-password = {secret}
smsbox-port = {box_port}
smsbox-interface = 127.0.0.1
box-allow-ip = 127.0.0.1
dlr-storage = internal
log-file = {log}
log-level = 1
sms-resend-freq = 1
{trust}

group = smsbox
bearerbox-host = 127.0.0.1
bearerbox-port = {box_port}
sendsms-port = {sendsms_port}
sendsms-interface = 127.0.0.1

group = sendsms-user
username = tester
password = {secret}
max-messages = 10
concatenation = true
"""

# With its names, Kannel hands these TLVs on (`%D`) instead of warning of each.
_TLVS = """
group = smpp-tlv
name = outgoing_id
tag = 0x1401
type = nulterminated
length = 64
smsc-id = portal
"""

_CONNECTION = """
group = smsc
smsc = smpp
smsc-id = portal
host = 127.0.0.1
{binds}
use-ssl = {tls}
smsc-username = {name}
smsc-password = {password}
system-type = ""
source-addr-autodetect = true
reconnect-delay = 1
"""

# How an account is bound: one group of Kannel's configuration each. Kannel finds the message of a receipt by the
# smsc-id that both came through, so a transmitter and its receiver share one.
_INTERNATIONAL = "\ndest-addr-ton = 1\ndest-addr-npi = 1"
# Of a number without a plus Kannel says then that it is a national one (TON 2).
TRANSCEIVER_WITHOUT_TON = ("transceiver-mode = true\nport = {port}",)
TRANSCEIVER_NATIONAL = (TRANSCEIVER_WITHOUT_TON[0] + "\ndest-addr-ton = 2\ndest-addr-npi = 1",)
TRANSCEIVER = (TRANSCEIVER_WITHOUT_TON[0] + _INTERNATIONAL,)
TRANSMITTER_AND_RECEIVER = ("port = {port}" + _INTERNATIONAL, "receive-port = {port}" + _INTERNATIONAL)
OLD_TRANSMITTER_AND_RECEIVER = tuple(f"{each}\ninterface-version = 33" for each in TRANSMITTER_AND_RECEIVER)
# Kannel cuts a text that has more octets than this, and sends one of more than 254 as a message_payload.
TRANSCEIVER_UNSPLIT = (TRANSCEIVER[0] + "\nmax-sms-octets = 1000",)

# Bits of Kannel's dlr-mask (user guide, table 7-5).
REPORT_DELIVERED, REPORT_NOT_DELIVERED, REPORT_ACCEPTED, REPORT_REFUSED = 1, 2, 8, 16
_ALL_REPORTS = 1 | 2 | 4 | 8 | 16


@dataclass(frozen=True)
class DeliveryReport:
    """A delivery report as Kannel hands it on.

    `message` is the number that `Kannel.send` gave, `status` one of REPORT_…, `answer` what the server said, `tlvs`
    the optional parameters by Kannel's names.
    """

    message: int
    status: int
    message_id: str
    answer: str
    tlvs: Mapping[str, str]


class DeliveryReportServer:
    """A web server to which Kannel's `dlr-url` leads."""

    def __init__(self) -> None:
        self.received: list[DeliveryReport] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = dict(urllib.parse.parse_qsl(self.path.partition("?")[2], keep_blank_values=True))
                tlvs = dict(urllib.parse.parse_qsl(query["meta"].partition("?smpp?")[2].partition("?")[0]))
                received.append(
                    DeliveryReport(int(query["n"]), int(query["status"]), query["id"], query["answer"], tlvs)
                )
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing: the reports are what matters."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @contextmanager
    def listening(self) -> Iterator["DeliveryReportServer"]:
        self._thread.start()
        yield self
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def dlr_url(self, message: int) -> str:
        """The `dlr-url` of a message; Kannel fills in what has percent signs (its user guide, table 7-5)."""
        return f"http://127.0.0.1:{self._server.server_port}/?n={message}&status=%d&id=%F&answer=%A&meta=%D"

    def wait_for_report(self, message: int, status: int) -> DeliveryReport:
        """Wait for the report of a status about a message."""
        return wait_until(lambda: next((r for r in self.received if (r.message, r.status) == (message, status)), None))


class Kannel:
    """A running pair of bearerbox and smsbox.

    Args:
        binds: TRANSCEIVER, TRANSMITTER_AND_RECEIVER or WHOLE.
        trusting: the certificate to trust on a TLS port; None: no TLS.
    """

    def __init__(
        self,
        folder: Path,
        login: AccountLogin,
        port: int,
        reports: DeliveryReportServer,
        binds: Sequence[str],
        trusting: Path | None,
    ) -> None:
        self._admin_port, self._sendsms_port, self._box_port = find_free_port(), find_free_port(), find_free_port()
        self._reports = reports
        self._numbers = itertools.count(1)
        self._connections = len(binds)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = folder / "bearerbox.log"
        core = _CONFIGURATION.format(
            secret=_SECRET,
            admin_port=self._admin_port,
            box_port=self._box_port,
            sendsms_port=self._sendsms_port,
            log=self._log,
            trust=f"ssl-trusted-ca-file = {trusting}" if trusting else "",
        )
        connections = (
            _CONNECTION.format(
                binds=each.format(port=port),
                tls="yes" if trusting else "no",
                name=login.name,
                password=login.password,
            )
            for each in binds
        )
        self._file = folder / "kannel.conf"
        self._file.write_text(core + _TLVS + "".join(connections))

    @contextmanager
    def running(self) -> Iterator["Kannel"]:
        with self._run_process(_BEARERBOX):
            # smsbox tries only once.
            wait_until(self._listens_for_boxes)
            with self._run_process(_SMSBOX):
                # smsbox opens its port first, reads who may send, and connects to bearerbox last.
                wait_until(lambda: "smsbox:" in self._read_status_page())
                yield self

    def connection_states(self) -> list[str]:
        """What the status page says of each connection: `online`, `re-connecting`, `dead` …"""
        return re.findall(r"portal\[portal\].*?\((\S+?),? ", self._read_status_page())

    def wait_for_state(self, state: str) -> None:
        """Wait until every connection is in a state."""
        wait_until(lambda: self.connection_states() == [state] * self._connections)

    def count_in_log(self, text: str) -> int:
        """How often."""
        return self._log.read_text(encoding="utf-8", errors="replace").count(text)

    def send_text(self, text: str, to: str = NUMBER, **parameters: str) -> int:
        """Send a text by smsbox's sendsms, asking for reports of all kinds; return the message's number in them."""
        self._assert_running()
        number = next(self._numbers)
        query = {
            "username": "tester",
            "password": _SECRET,
            "from": "ACME",
            "to": to,
            "text": text,
            "charset": "UTF-8",
            "dlr-mask": str(_ALL_REPORTS),
            "dlr-url": self._reports.dlr_url(number),
        }
        address = f"http://127.0.0.1:{self._sendsms_port}/cgi-bin/sendsms?{urllib.parse.urlencode(query | parameters)}"
        with urllib.request.urlopen(address, timeout=5) as answer:
            assert answer.status == 202, answer.read()
        return number

    def _listens_for_boxes(self) -> bool:
        """Whether bearerbox listens for boxes.

        Seen without connecting. Who connects is a box to bearerbox: its status page may show him as `smsbox:` any time
        later, when he has long gone and the real one has not come, and it takes the next box only after a second.
        """
        self._assert_running()
        sockets = map(str.split, Path("/proc/net/tcp").read_text().splitlines())
        return any(address.endswith(f":{self._box_port:04X}") and state == "0A" for _, address, _, state, *_ in sockets)

    def _read_status_page(self) -> str:
        """Its text; empty while there is none."""
        self._assert_running()
        try:
            address = f"http://127.0.0.1:{self._admin_port}/status.txt?password={_SECRET}"
            with urllib.request.urlopen(address, timeout=5) as answer:
                return str(answer.read(), "utf-8", "replace")
        except OSError:
            return ""

    def _assert_running(self) -> None:
        for each in self._processes:
            assert each.poll() is None, f"{each.args!r} ended with {each.returncode}"

    @contextmanager
    def _run_process(self, program: str) -> Iterator[None]:
        # Its log goes to the test's own output, which pytest shows when the test fails. 1: information and worse.
        process = subprocess.Popen([program, "-v", "1", self._file])
        self._processes.append(process)
        try:
            yield
        finally:
            self._processes.remove(process)
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
