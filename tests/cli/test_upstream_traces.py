"""`upstream trace`: started, followed and stopped from the shell."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from portal.core import db
from portal.core.clock import now_ms
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.upstreams import traces
from portal.services.upstreams.traces import TracedPdu
from tests.services.upstreams.waiting import add_upstream
from tests.support import ROOT

AT = 1_800_000_000_123
PDU = TracedPdu(AT, False, 2, 7, "submit_sm_resp", "ESME_ROK 0x00", {"message_id": "a\x1b[1m"})


@pytest.fixture(autouse=True)
def carrier(conn: db.Connection, keys: Keys) -> None:
    add_upstream(conn, keys)


def test_one_is_started_listed_and_stopped(
    ok: Callable[..., Any], refused: Any, run_app: Any, conn: db.Connection
) -> None:
    assert "Nothing of carrier was traced. Begin: " in run_app("upstream", "trace", "carrier").stdout
    assert ok("upstream", "trace", "carrier")["ends_at"] is None
    started = ok("upstream", "trace", "carrier", "--minutes", 5)
    assert started["pdus"] == []
    assert set(traces.list_running_traces(conn)) == {1}
    traces.store_pdus(conn, 1, [PDU, PDU], 4)
    value = ok("upstream", "trace", "carrier", "--limit", 1)
    assert value["left_out"] == 4
    assert value["pdus"] == [
        {
            "at": "2027-01-15T08:00:00.123Z",
            "direction": "in",
            "bind": 2,
            "command": "submit_sm_resp",
            "sequence_number": 7,
            "command_status": "ESME_ROK 0x00",
            "fields": {"message_id": "a\x1b[1m"},
        }
    ]
    text = run_app("upstream", "trace", "carrier").stdout
    line = r"2027-01-15T08:00:00.123Z <- bind=2 submit_sm_resp seq=7 ESME_ROK 0x00 message_id='a\x1b[1m'"
    assert text.splitlines()[0] == line
    assert "carrier is traced until" in text
    assert "PDUs that came too fast to be kept: 4." in text
    ok("upstream", "trace", "carrier", "--stop")
    assert traces.list_running_traces(conn) == {}
    assert "carrier was traced until" in run_app("upstream", "trace", "carrier").stdout
    assert "from 1 to 60 minutes" in refused("upstream", "trace", "carrier", "--minutes", 61)
    assert run_app("upstream", "trace", "carrier", "--stop", "--follow").returncode == 2
    assert run_app("upstream", "trace", "other").returncode == 1


def test_it_is_followed_until_it_ends(ok: Callable[..., Any], conn: db.Connection, config: Config) -> None:
    ok("upstream", "trace", "carrier", "--minutes", 5)
    command = [sys.executable, str(ROOT / "app.py"), "upstream", "trace", "carrier", "--follow", "--json"]
    process = subprocess.Popen([*command, "--data", str(config.data)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    lines: list[str] = []
    has_line = threading.Event()

    def read() -> None:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                lines.append(line)
                has_line.set()

    reader = threading.Thread(target=read)
    reader.start()
    deadline = now_ms() + 30_000
    while not has_line.wait(0.1) and now_ms() < deadline:
        traces.store_pdus(conn, 1, [PDU], 0)
    conn.execute("UPDATE upstream_traces SET ends_at = ?", (now_ms(),))
    assert process.wait(30) == 0
    reader.join(10)
    values = [json.loads(line) for line in lines]
    assert values[0]["command"] == "submit_sm_resp"
    assert values[-1]["pdus"] == []
    assert values[-1]["ends_at"]
