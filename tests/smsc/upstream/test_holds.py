"""Accounts that are held and released by another process while the server runs: what goes out, and what waits."""

import asyncio
import subprocess
import sys

import pytest

from portal.core.config import Config
from portal.services.common import message_states
from portal.services.common.audit import SYSTEM
from portal.services.operations import self_check
from portal.services.upstreams import holds
from portal.smsc.protocol.pdu import CancelSm
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.smsc.upstream.running import count_waiting, run_bound
from tests.smsc.upstream.smpp_client.carrier import run_carrier
from tests.support import ROOT

# Another process holds, or releases, an account, and wakes the server as each process of the program does.
CHANGE = """
import sys
from pathlib import Path
from portal.core import db, wakeup
from portal.services.common.audit import SHELL
from portal.services.upstreams import holds

data, action, account_id = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
conn = db.connect(data / db.FILE_NAME, on_commit=wakeup.WakeupSender(data).send)
if action == "hold":
    holds.hold_account(conn, SHELL, account_id, "unusual traffic")
else:
    holds.release_account(conn, SHELL, account_id)
"""


async def change(config: Config, action: str, account_id: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHANGE, str(config.data), action, str(account_id), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def test_an_account_on_hold_is_charged_and_waits_and_others_go_on(config, conn, cast, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        other = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
        await change(config, "hold", cast.smpp_acme_1.id)
        await wait_until(lambda: server.dispatcher.held_account_ids)
        (before,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (cast.smpp_acme_1.id,)).fetchone()
        for each in range(5):
            assert (await esme.submit(f"39333000000{each}", text=b"%d" % each)).status == 0
        assert (await other.submit(text=b"other", source="GLOBEX")).status == 0
        submit = await connection.read_submit()
        assert submit.short_message == b"other"
        connection.answer(submit)
        (after,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (cast.smpp_acme_1.id,)).fetchone()
        assert after < before
        assert count_waiting(conn) == 5
        await change(config, "release", cast.smpp_acme_1.id)
        texts = []
        for _ in range(5):
            submit = await connection.read_submit()
            connection.answer(submit)
            texts.append(submit.short_message)
        assert texts == [b"0", b"1", b"2", b"3", b"4"]
        await wait_until(lambda: not count_waiting(conn))
        # The account has its room again: what it submits now goes out at once.
        await esme.submit(text=b"at once")
        assert (await connection.read_submit()).short_message == b"at once"
        assert self_check.list_problem_texts(conn) == []


async def test_what_the_upstream_has_no_room_for_is_taken_back_when_its_account_is_held(
    config, conn, cast, add_upstream
):
    async with run_bound(config, add_upstream, window=1, throughput=0) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for each in range(4):
            await esme.submit(f"39333000000{each}", text=b"%d" % each)
        first = await connection.read_submit()
        await change(config, "hold", cast.smpp_acme_1.id)
        await wait_until(lambda: server.dispatcher.held_account_ids)
        connection.answer(first)
        await wait_until(
            lambda: conn.execute("SELECT count(*) FROM messages WHERE upstream IS NULL").fetchone()[0] == 3
        )
        await wait_until(lambda: count_waiting(conn) == 3)
        other = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
        assert (await other.submit(text=b"other", source="GLOBEX")).status == 0
        assert (await connection.read_submit()).short_message == b"other"
        assert self_check.list_problem_texts(conn) == []


async def test_a_hold_outlives_a_restart_and_what_is_held_can_be_called_back(config, conn, cast, add_upstream):
    holds.hold_account(conn, SYSTEM, cast.smpp_acme_1.id, "unusual traffic")
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        async with run_smsc(config) as server:
            await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            kept = (await esme.submit(text=b"kept")).message_id
            cancelled = (await esme.submit(text=b"cancelled")).message_id
            answer = await esme.request(
                CancelSm(next(esme.sequences), message_id=cancelled, source="ACME", destination="393331234567")
            )
            assert answer.status == 0
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            other = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
            assert (await other.submit(text=b"other", source="GLOBEX")).status == 0
            assert (await connection.read_submit()).short_message == b"other"
            states = dict(conn.execute("SELECT id, state FROM messages WHERE text <> 'other'").fetchall())
            assert states == {int(kept): message_states.ENROUTE, int(cancelled): message_states.DELETED}
            await change(config, "release", cast.smpp_acme_1.id)
            assert (await connection.read_submit()).short_message == b"kept"


@pytest.mark.parametrize("window", [1, 50])
async def test_messages_submitted_while_an_account_is_held_and_released_go_once_and_in_order(
    config, conn, cast, add_upstream, change_account, window
):
    change_account(throughput=0)
    async with run_bound(config, add_upstream, window=window) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        texts: list[bytes] = []

        async def answer_all() -> None:
            while len(texts) < 400:
                submit = await connection.read_submit()
                connection.answer(submit)
                texts.append(submit.short_message)

        answering = asyncio.create_task(answer_all())
        for each in range(400):
            assert (await esme.submit(text=b"%d" % each)).status == 0
            if each % 100 == 30:
                holds.hold_account(conn, SYSTEM, cast.smpp_acme_1.id, "")
                server.storage.poll_changes()
            elif each % 100 == 70:
                holds.release_account(conn, SYSTEM, cast.smpp_acme_1.id)
                server.storage.poll_changes()
        await asyncio.wait_for(answering, 30)
        assert texts == [b"%d" % each for each in range(400)]
        await wait_until(lambda: not count_waiting(conn))
        assert self_check.list_problem_texts(conn) == []
