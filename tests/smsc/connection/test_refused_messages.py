"""Each submit that is refused is counted, by its reason and what was at fault; those that the history has are not."""

import asyncio

import pytest

from portal.core.clock import now_ms
from portal.services.accounts import accounts, refusals, session_records
from portal.services.accounts.refusals import OTHERS
from portal.services.common.audit import SHELL
from portal.services.messages import blacklist
from portal.services.prices import prices
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from tests.smsc.esme import RawEsme, get_account_config, run_smsc, wait_until

ITALIAN, JAPANESE = "393331234567", "819012345678"
NO_SEGMENTS = {TlvTag.SAR_TOTAL_SEGMENTS: b"\0"}


def list_counts(conn, account_id):
    """Counts of refused messages, by reason and value."""
    found = refusals.list_refusals(conn, account_id, now_ms() - 3_600_000, is_bind=False)
    return {(each.reason, each.value): each.count for each in found}


@pytest.mark.parametrize(
    ("fields", "status", "counted"),
    [
        ({"source": "NOTMINE"}, CommandStatus.ESME_RINVSRCADR, ("sender", "NOTMINE")),
        ({"source": ""}, CommandStatus.ESME_RINVSRCADR, ("sender", "")),
        ({"destination": "12"}, CommandStatus.ESME_RINVDSTADR, ("destination", "")),
        ({"destination": JAPANESE}, CommandStatus.ESME_RINVDSTADR, ("price", "JP")),
        ({"data_coding": 4}, CommandStatus.ESME_RUNSDATACODING, ("coding", "4")),
        ({"text": b"\x80\x81"}, CommandStatus.ESME_RINVGSM7CODING, ("text", "0")),
        ({"text": b"a", "data_coding": 8}, CommandStatus.ESME_RINVMSGLEN, ("length", "")),
        ({"schedule_delivery_time": "1"}, CommandStatus.ESME_RINVSCHED, ("time", "")),
        ({"validity_period": "000000000000000R"}, CommandStatus.ESME_RINVEXPIRY, ("time", "")),
        ({"esm_class": 0x3C}, CommandStatus.ESME_RINVESMCLASS, ("format", "ESME_RINVESMCLASS")),
        ({"tlvs": NO_SEGMENTS}, CommandStatus.ESME_RINVOPTPARAMVAL, ("format", "ESME_RINVOPTPARAMVAL")),
    ],
    ids=lambda each: "/".join(each) if isinstance(each, tuple) else None,
)  # fmt: skip
async def test_each_reason_is_counted_with_what_was_at_fault(config, cast, conn, fields, status, counted):
    login = cast.smpp_acme_1
    prices.set_prices(conn, SHELL, {"JP": None})
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        assert [(await esme.submit(**fields)).status for _ in range(3)] == [status] * 3
        assert (await esme.submit()).status == 0
    # What was not written yet is, at the end.
    assert list_counts(conn, login.id) == {counted: 3}
    assert conn.execute("SELECT count(*) FROM messages").fetchone()[0] == 1


async def test_they_are_there_within_a_second_and_its_session_counts_them(config, cast, conn):
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        for _ in range(5):
            await esme.submit(source="NOTMINE")
        await wait_until(lambda: list_counts(conn, login.id) == {("sender", "NOTMINE"): 5})
        await wait_until(lambda: session_records.list_open_smpp_sessions(conn, login.id)[0].refused == 5)
        assert session_records.list_open_smpp_sessions(conn, login.id)[0].submitted == 0


async def test_what_is_over_the_throughput_or_the_window_is_counted_with_the_limit(config, cast, conn, change_account):
    login = cast.smpp_acme_1
    change_account(throughput=2, windowing=0)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        batch = [esme.build_submit_sm() for _ in range(8)]
        esme.send(*batch)
        answers = [await esme.wait_for_pdu(CommandId.SUBMIT_SM_RESP) for _ in batch]
        refused = sum(each.status == CommandStatus.ESME_RTHROTTLED for each in answers)
        assert refused
        change_account(throughput=0, windowing=3)
        await wait_until(lambda: get_account_config(server, login.name).windowing == 3)
        batch = [esme.build_submit_sm() for _ in range(8)]
        esme.send(*batch)
        answers = [await esme.wait_for_pdu(CommandId.SUBMIT_SM_RESP) for _ in batch]
        over_window = sum(each.status == CommandStatus.ESME_RTHROTTLED for each in answers)
        assert over_window
    assert list_counts(conn, login.id) == {("throughput", "2"): refused, ("window", "3"): over_window}


async def test_a_receiver_and_a_session_that_ends_may_not_submit(config, cast, conn):
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        receiver = await RawEsme.connect_and_bind(server.port, login, CommandId.BIND_RECEIVER)
        assert (await receiver.submit()).status == CommandStatus.ESME_RINVBNDSTS
        stranger = await RawEsme.connect(server.port)
        assert (await stranger.submit()).status == CommandStatus.ESME_RINVBNDSTS
    assert list_counts(conn, login.id) == {("state", "receiver"): 1}


async def test_pdus_that_are_malformed_and_submit_multi_are_counted(config, cast, conn):
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        octets = bytearray(esme.build_submit_sm().encode())
        for command, body in ((CommandId.SUBMIT_SM, octets[16:-1]), (0x21, b"\0")):
            header = (16 + len(body)).to_bytes(4) + int(command).to_bytes(4) + bytes(4) + (77).to_bytes(4)
            esme.send_octets(header + bytes(body))
            await esme.wait_for_response(77)
    assert sum(list_counts(conn, login.id).values()) == 2
    assert ("format", "ESME_RINVCMDID") in list_counts(conn, login.id)


async def test_what_the_history_has_is_not_counted_twice(config, cast, conn):
    login = cast.smpp_acme_1
    blacklist.add_blacklist_number(conn, SHELL, accounts.get_account(conn, login.name), ITALIAN)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        assert (await esme.submit(destination=ITALIAN)).status == 0
        conn.execute("UPDATE accounts SET balance = 0 WHERE id = ?", (login.id,))
        assert (await esme.submit(destination="393409999999")).status == CommandStatus.ESME_RSUBMITFAIL
    assert list_counts(conn, login.id) == {}
    assert conn.execute("SELECT sum(refused), sum(stopped) FROM daily_totals").fetchone()[:] == (1, 1)


async def test_nobody_counts_for_another_account(config, cast, conn):
    async with run_smsc(config) as server:
        esmes = [await RawEsme.connect_and_bind(server.port, each) for each in (cast.smpp_acme_1, cast.smpp_globex_1)]
        await asyncio.gather(*(each.submit(source="NOTMINE") for each in esmes))
    for login in (cast.smpp_acme_1, cast.smpp_globex_1):
        assert list_counts(conn, login.id) == {("sender", "NOTMINE"): 1}


async def test_ever_new_senders_are_counted_within_bounds(config, cast, conn, change_account):
    login = cast.smpp_acme_1
    change_account(throughput=0, windowing=0)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        for first in range(0, 6_000, 500):
            batch = [esme.build_submit_sm(source=f"S{first + number}") for number in range(500)]
            esme.send(*batch)
            for _ in batch:
                await esme.wait_for_pdu(CommandId.SUBMIT_SM_RESP)
    counts = list_counts(conn, login.id)
    assert sum(counts.values()) == 6_000
    assert len(counts) <= 2 * refusals.MAX_VALUES + 1
    assert counts["sender", OTHERS] >= 4_000


async def test_those_of_many_accounts_are_written_part_by_part_while_others_submit(config, cast, conn, change_account):
    change_account(throughput=0, windowing=0)
    conn.execute("UPDATE accounts SET balance = 1000000000")
    others = [accounts.create_account(conn, SHELL, cast.acme, name=f"smpp-many-{each}").id for each in range(40)]
    written = []

    def count_accounts():
        written.append(conn.execute("SELECT count(DISTINCT account_id) FROM refusals").fetchone()[0])
        return written[-1] == len(others)

    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for account_id in others:
            for number in range(900):
                server.storage.refused_messages.add(account_id, "sender", f"S{number}")
        while not count_accounts():
            assert (await esme.submit()).status == 0
        # Not all of them went by between two messages.
        assert len(set(written)) > 3
        for account_id in others:
            server.storage.refused_messages.add(account_id, "sender", "AT THE END")
    assert conn.execute("SELECT sum(count) FROM refusals").fetchone()[0] == len(others) * 901
