"""schedule_delivery_time and validity_period: a message waits for its date, and expires with its validity."""

import datetime

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.services.common import ids, message_states
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.history import history, refunds
from portal.services.messages import blacklist, intake
from portal.services.messages.validation import DEFAULT_VALIDITY_MS
from portal.services.operations import self_check
from portal.smsc.limits import ServerLimits
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import DataSm
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.support import prepare_submit

PENDING = "393331230006"
LATER = "000000010000000R"
PAST = "200101000000000+"


def absolute(moment):
    at = datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC)
    return at.strftime("%y%m%d%H%M%S") + f"{at.microsecond // 100_000}00+"


def state(conn, answer):
    row = conn.execute("SELECT state FROM messages WHERE id = ?", (int(answer.message_id),)).fetchone()
    return row["state"]


def let_time_pass(conn, milliseconds):
    """Move every stored date back, as if so much time had passed."""
    conn.execute(
        "UPDATE messages SET scheduled_at = scheduled_at - :ms, expires_at = expires_at - :ms, due_at = due_at - :ms",
        {"ms": milliseconds},
    )


def id_and_state(receipt):
    return receipt.tlvs[TlvTag.RECEIPTED_MESSAGE_ID].rstrip(b"\0").decode(), receipt.tlvs[TlvTag.MESSAGE_STATE][0]


@pytest.mark.slow
async def test_a_scheduled_message_waits_for_its_date(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        date = now_ms() + 1_000
        answer = await esme.submit(schedule_delivery_time=absolute(date))
        assert answer.status == 0
        assert credits.get_balance(conn, cast.smpp_acme_1.id) == 999_000
        assert id_and_state(await esme.receive_deliver_sm()) == (answer.message_id, message_states.DELIVERED)
        (row,) = conn.execute("SELECT done_at, scheduled_at FROM messages")
        # Tenths of a second are the finest that the protocol can say.
        assert date - 100 < row["scheduled_at"] <= date < row["done_at"] + 100


@pytest.mark.slow
async def test_who_says_stop_before_the_date_gets_nothing_and_it_costs_nothing(config, cast, conn, account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        unwanted = await esme.submit(schedule_delivery_time=LATER)
        other = await esme.submit("393331234568", schedule_delivery_time=LATER)
        blacklist.add_blacklist_number(conn, SHELL, account, "393331234567")
        let_time_pass(conn, DAY_MS)
        receipts = [await esme.receive_deliver_sm() for _ in range(2)]
        assert {id_and_state(each) for each in receipts} == {
            (unwanted.message_id, message_states.REJECTED),
            (other.message_id, message_states.DELIVERED),
        }
        assert b" stat:REJECTD err:053 " in receipts[0].short_message
    assert credits.get_balance(conn, account.id) == 999_000
    assert (
        refunds.sum_refunds(conn, history.get_sent_text_by_message_id(conn, account.id, int(unwanted.message_id)))
        == 1_000
    )
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.slow
async def test_a_scheduled_message_waits_over_a_restart(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(schedule_delivery_time=LATER)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        other = await esme.submit()
        assert id_and_state(await esme.receive_deliver_sm())[0] == other.message_id
        assert state(conn, answer) == message_states.ENROUTE
    let_time_pass(conn, 3_600_000)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert id_and_state(await esme.receive_deliver_sm()) == (answer.message_id, message_states.DELIVERED)


async def test_a_date_that_has_passed_means_at_once(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(schedule_delivery_time=PAST)
        assert id_and_state(await esme.receive_deliver_sm()) == (answer.message_id, message_states.DELIVERED)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"schedule_delivery_time": "010002000000000R"}, CommandStatus.ESME_RINVSCHED),
        ({"schedule_delivery_time": "010001000000000R"}, 0),
        ({"validity_period": PAST}, CommandStatus.ESME_RINVEXPIRY),
        ({"validity_period": "000000000000000R"}, CommandStatus.ESME_RINVEXPIRY),
        ({"schedule_delivery_time": LATER, "validity_period": LATER}, CommandStatus.ESME_RINVEXPIRY),
        ({"schedule_delivery_time": LATER, "validity_period": "000000020000000R"}, 0),
        ({"schedule_delivery_time": PAST, "validity_period": LATER}, 0),
        ({"schedule_delivery_time": "tomorrow"}, CommandStatus.ESME_RINVSCHED),
        ({"validity_period": "tomorrow"}, CommandStatus.ESME_RINVEXPIRY),
    ],
)
async def test_dates_that_make_sense_are_taken_and_others_are_not(config, cast, conn, fields, status):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(**fields)).status == status
        assert conn.execute("SELECT count(*) FROM messages").fetchone()[0] == (status == 0)


async def test_relative_and_absolute_validities_are_the_same(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        before = now_ms()
        await esme.submit(PENDING, validity_period=LATER)
        # A relative one counts from the submit, also where the message is to be sent later.
        await esme.submit(PENDING, validity_period="000000020000000R", schedule_delivery_time=LATER)
        await esme.submit(PENDING, validity_period=absolute(before + 3_600_000))
        await esme.submit(PENDING, schedule_delivery_time=LATER)
        first, second, third, fourth = (row[0] - before for row in conn.execute("SELECT expires_at FROM messages"))
    assert 3_600_000 <= first < 3_610_000
    assert 7_200_000 <= second < 7_210_000
    assert 3_599_900 <= third <= 3_600_000
    assert 3_600_000 + DEFAULT_VALIDITY_MS <= fourth < 3_610_000 + DEFAULT_VALIDITY_MS


@pytest.mark.slow
@pytest.mark.parametrize("destination", [PENDING, "393331230005"])
async def test_what_is_not_delivered_in_time_expires(config, cast, conn, destination):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(destination, validity_period="000000000001000R")
        receipt = await esme.receive_deliver_sm()
        assert id_and_state(receipt) == (answer.message_id, message_states.EXPIRED)
        assert b"stat:EXPIRED err:801" in receipt.short_message
        assert receipt.tlvs[TlvTag.NETWORK_ERROR_CODE] == b"\x03" + (801).to_bytes(2)
    assert conn.execute("SELECT price FROM messages").fetchone()[0] == 1000
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.slow
async def test_what_is_delivered_in_time_does_not_expire(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(validity_period="000000000001000R")
        assert id_and_state(await esme.receive_deliver_sm()) == (answer.message_id, message_states.DELIVERED)
        pending = await esme.submit(PENDING, validity_period="000000000001000R")
        assert id_and_state(await esme.receive_deliver_sm())[0] == pending.message_id
        assert state(conn, answer) == message_states.DELIVERED


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["", LATER])
async def test_a_message_expires_also_while_the_server_is_down(config, cast, conn, schedule):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit("393331230005", schedule_delivery_time=schedule, validity_period="000000020000000R")
    let_time_pass(conn, 7_200_000)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert id_and_state(await esme.receive_deliver_sm()) == (answer.message_id, message_states.EXPIRED)


@pytest.mark.slow
async def test_without_a_validity_a_message_expires_after_three_days(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit(PENDING)
        await esme.submit(PENDING)
        first, second = (row["id"] for row in conn.execute("SELECT id FROM messages ORDER BY id"))
        assert DEFAULT_VALIDITY_MS == 3 * DAY_MS
        old = first - ids.id_span(DEFAULT_VALIDITY_MS)
        conn.execute("UPDATE messages SET id = ? WHERE id = ?", (old, first))
        conn.execute("UPDATE movements SET first_message_id = ? WHERE first_message_id = ?", (old, first))
        assert id_and_state(await esme.receive_deliver_sm()) == (str(old), message_states.EXPIRED)
        assert conn.execute("SELECT state FROM messages WHERE id = ?", (second,)).fetchone()[0] == 1


@pytest.mark.slow
async def test_the_time_to_live_of_data_sm(config, cast, conn):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message = DataSm(
            next(esme.sequences),
            source="ACME",
            destination=PENDING,
            registered_delivery=1,
            tlvs={TlvTag.MESSAGE_PAYLOAD: b"hello", TlvTag.QOS_TIME_TO_LIVE: (1).to_bytes(4)},
        )
        answer = await esme.request(message)
        assert (answer.command, answer.status) == (CommandId.DATA_SM_RESP, 0)
        assert id_and_state(await esme.receive_deliver_sm()) == (answer.message_id, message_states.EXPIRED)
        message.tlvs = {TlvTag.QOS_TIME_TO_LIVE: bytes(4)}
        assert (await esme.request(message)).status == CommandStatus.ESME_RINVEXPIRY


@pytest.mark.slow
async def test_an_expired_message_is_over(config, cast, conn):
    """The upstream does not send it, and what it may report later is not heard."""
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit("393331230010", validity_period="000000000001000R")
        assert id_and_state(await esme.receive_deliver_sm()) == (answer.message_id, message_states.EXPIRED)
        await wait_until(lambda: not server.simulator.cancellable_ids)


@pytest.mark.slow
async def test_what_can_not_be_taken_when_it_is_due_is_taken_later(config, cast, conn, caplog):
    conn.execute("CREATE TRIGGER sick BEFORE UPDATE OF due_at ON messages BEGIN SELECT RAISE(ABORT, 'sick'); END")
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(schedule_delivery_time=absolute(now_ms() + 500))
        await wait_until(lambda: "a job of kind DUE_MESSAGES could not be written" in caplog.text)
        conn.execute("DROP TRIGGER sick")
        assert id_and_state(await esme.receive_deliver_sm()) == (answer.message_id, message_states.DELIVERED)


async def test_a_whole_campaign_becomes_due_at_once(config, cast, conn):
    submit = prepare_submit(conn, cast.smpp_acme_1.id, registered_delivery=0, scheduled_at=now_ms() - 1)
    conn.execute("UPDATE accounts SET balance = 3000000")
    intake.store_messages(conn, [submit] * 2_500)
    # The clock's hand does not move meanwhile: one poll has to be enough.
    async with run_smsc(config, ServerLimits(due_poll_seconds=3_600)) as server:
        server.storage.outbound.poll_due_messages()
        await wait_until(lambda: conn.execute("SELECT count(*) FROM messages WHERE state = 2").fetchone()[0] == 2_500)
