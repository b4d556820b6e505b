"""Messages from handsets (MO): from the simulator to the account's receivers, and STOP."""

from collections.abc import Callable

import pytest

from portal.core import db
from portal.core.wakeup import WakeupSender
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import message_states
from portal.services.common.audit import SHELL
from portal.services.messages import blacklist, deliveries, inbound, inbound_numbers
from portal.services.messages.inbound import InboundRecipients, MobileOriginatedMessage
from portal.services.statistics import daily_totals
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from tests.smsc.esme import RawEsme, run_smsc, wait_until

HANDSET = "393337654321"
SHORT_CODE = "48484"
NUMBER = "393990001112"


@pytest.fixture
def say(conn: db.Connection, wakeup_sender: WakeupSender) -> Callable[..., InboundRecipients]:
    """Lets a handset send a text."""

    def say(text: str, to: str = SHORT_CODE, source: str = HANDSET) -> InboundRecipients:
        found = inbound.simulate_inbound_message(conn, source, to, text)
        wakeup_sender.send()
        return found

    return say


@pytest.fixture
def routed(conn: db.Connection, account: Account) -> None:
    """The account of most tests has a short code and a number."""
    for number in (SHORT_CODE, NUMBER):
        inbound_numbers.add_inbound_number(conn, SHELL, account, number)


def count(conn, table):
    return conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def stopped(conn, login):
    return [each.number for each in blacklist.list_blacklist(conn, login.id)]


async def test_it_reaches_the_receivers_and_is_kept(config, cast, conn, routed, say):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        say("Is my parcel there?")
        mo = await esme.receive_deliver_sm()
        assert (mo.source, mo.source_ton, mo.source_npi) == (HANDSET, 1, 1)
        assert (mo.destination, mo.dest_ton, mo.dest_npi) == (SHORT_CODE, 3, 1)
        assert (mo.esm_class, mo.data_coding, mo.short_message) == (0, 0, b"Is my parcel there?")
        row = conn.execute("SELECT id, account_id, source, destination, keyword, text FROM received").fetchone()
        assert tuple(row)[1:] == (cast.smpp_acme_1.id, HANDSET, SHORT_CODE, "", "Is my parcel there?")
        assert mo.tlvs == {TlvTag.INCOMING_ID: b"%d\0" % row[0]}
        await wait_until(lambda: count(conn, "deliveries") == 0)
        assert (count(conn, "received"), count(conn, "simulated")) == (1, 0)
        say("And to a number?", to=f"+{NUMBER}")
        assert [(each.destination, each.dest_ton) for each in [await esme.receive_deliver_sm()]] == [(NUMBER, 1)]


@pytest.mark.parametrize(
    ("text", "data_coding", "coded"),
    [
        ("{€}", 0, b"\x1b\x28\x1b\x65\x1b\x29"),
        ("Ciao 😀", 8, "Ciao 😀".encode("utf-16-be")),
        ("x" * 254, 0, b"x" * 254),
        ("x" * 255, 0, b"x" * 255),
        ("Ελλάδα 🇬🇷 " * 40, 8, ("Ελλάδα 🇬🇷 " * 40).encode("utf-16-be")),
        ("", 0, b""),
    ],
    ids=["extension", "emoji", "short", "long", "long UCS-2", "empty"],
)
async def test_a_text_of_any_length_is_one_message(config, cast, conn, routed, say, text, data_coding, coded):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        say(text)
        mo = await esme.receive_deliver_sm()
        assert (mo.data_coding, mo.body) == (data_coding, coded)
        # One that is longer than short_message can be comes in message_payload, and there alone (5.3.2.32).
        assert (TlvTag.MESSAGE_PAYLOAD in mo.tlvs) == (len(coded) > 254)
        assert len(mo.short_message) == (len(coded) if len(coded) <= 254 else 0)
        assert conn.execute("SELECT text FROM received").fetchone()[0] == text


async def test_it_waits_for_the_server_and_for_a_receiver(config, cast, conn, routed, say):
    say("before the server")
    async with run_smsc(config) as server:
        await wait_until(lambda: count(conn, "received") == 1)
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        say("before the receiver")
        await wait_until(lambda: count(conn, "received") == 2)
        assert (await transmitter.submit()).status == 0
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        texts = [(await esme.receive_deliver_sm()).short_message for _ in range(2)]
        assert texts == [b"before the server", b"before the receiver"]


async def test_receipts_and_what_was_received_are_in_one_order(config, cast, conn, routed, say):
    async with run_smsc(config) as server:
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        say("first")
        await wait_until(lambda: count(conn, "deliveries") == 1)
        await transmitter.submit()
        await wait_until(lambda: count(conn, "deliveries") == 2)
        say("third")
        await wait_until(lambda: count(conn, "deliveries") == 3)
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        assert [(await esme.receive_deliver_sm()).esm_class for _ in range(3)] == [0, 4, 0]


async def test_one_to_a_number_that_nobody_has_any_more_is_let_go(config, cast, conn, account, routed, say):
    say("too late")
    inbound_numbers.remove_inbound_number(conn, SHELL, account, SHORT_CODE)
    say("to the other one", to=NUMBER)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.receive_deliver_sm()).short_message == b"to the other one"
        assert (count(conn, "received"), count(conn, "simulated")) == (1, 0)


@pytest.mark.slow
async def test_a_refused_one_comes_again(config, cast, conn, routed, say):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        say("hello")
        first = await esme.receive_deliver_sm(CommandStatus.ESME_RSYSERR)
        assert (await esme.receive_deliver_sm()).tlvs == first.tlvs
        await wait_until(lambda: count(conn, "deliveries") == 0)


@pytest.mark.parametrize("kind", ["message", "receipt"])
async def test_one_that_no_deliver_sm_can_hold_stops_no_other(config, cast, conn, routed, say, kind):
    async with run_smsc(config) as server:
        transmitter = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        if kind == "message":
            inbound.store_inbound_messages(conn, [MobileOriginatedMessage("3" * 21, SHORT_CODE, "too long a source")])
        else:
            await transmitter.submit()
            await wait_until(lambda: count(conn, "deliveries") == 1)
            conn.execute("UPDATE messages SET source = '€'")
        say("behind it")
        await wait_until(lambda: count(conn, "received") == (2 if kind == "message" else 1))
        receiver = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_RECEIVER)
        assert (await receiver.receive_deliver_sm()).short_message == b"behind it"
        say("later")
        assert (await receiver.receive_deliver_sm()).short_message == b"later"
        # It goes on waiting by itself, as one that the client has refused for good.
        await wait_until(lambda: count(conn, "deliveries") == 1)
        (attempts,) = conn.execute("SELECT attempts FROM deliveries").fetchone()
        assert attempts == deliveries.MAX_BLOCKING_ATTEMPTS


# --- STOP


@pytest.mark.slow
async def test_many_from_the_shell_are_taken_in_by_and_by(config, conn, routed):
    many = 2 * inbound.SIMULATED_BATCH_SIZE + 1
    conn.executemany(
        "INSERT INTO simulated (source, destination, text) VALUES (?, ?, ?)",
        [(HANDSET, SHORT_CODE, str(number)) for number in range(many)],
    )
    assert len(inbound.list_simulated_messages(conn, 0)) == inbound.SIMULATED_BATCH_SIZE
    async with run_smsc(config):
        await wait_until(lambda: count(conn, "simulated") == 0)
    texts = [int(row[0]) for row in conn.execute("SELECT text FROM received ORDER BY id")]
    assert texts == list(range(many))


async def test_who_has_said_stop_gets_nothing_more_and_it_costs_nothing(config, cast, conn, routed, say):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert say("stop!").is_stop_request
        assert (await esme.receive_deliver_sm()).short_message == b"stop!"
        assert stopped(conn, cast.smpp_acme_1) == [HANDSET]
        balance = conn.execute("SELECT balance FROM accounts WHERE id = ?", (cast.smpp_acme_1.id,)).fetchone()[0]
        answer = await esme.submit(destination=f"+{HANDSET}")
        assert answer.status == 0
        receipt = await esme.receive_deliver_sm()
        assert receipt.tlvs[TlvTag.RECEIPTED_MESSAGE_ID] == answer.message_id.encode() + b"\0"
        assert receipt.tlvs[TlvTag.MESSAGE_STATE][0] == message_states.REJECTED
        assert b" dlvrd:000 " in receipt.short_message
        assert b" stat:REJECTD err:053 " in receipt.short_message
        row = conn.execute("SELECT ptt, price FROM messages WHERE id = ?", (int(answer.message_id),)).fetchone()
        assert tuple(row) == (53, 0)
        after = conn.execute("SELECT balance FROM accounts WHERE id = ?", (cast.smpp_acme_1.id,)).fetchone()[0]
        assert after == balance
        assert daily_totals.sum_daily_totals(conn, cast.smpp_acme_1.id, 1).stopped == 1
        # Others still get theirs, and another account still reaches the handset.
        assert (await esme.submit()).status == 0
        other = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
        await other.submit(destination=HANDSET, source="GLOBEX")
        assert b"stat:DELIVRD" in (await other.receive_deliver_sm()).short_message


async def test_a_second_stop_changes_nothing(config, cast, conn, routed, say):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        say("STOP")
        await esme.receive_deliver_sm()
        since = blacklist.list_blacklist(conn, cast.smpp_acme_1.id)
        say("STOP SMS")
        await esme.receive_deliver_sm()
        assert blacklist.list_blacklist(conn, cast.smpp_acme_1.id) == since
        assert count(conn, "received") == 2


async def test_a_short_code_that_two_accounts_share(config, cast, conn, account, say):
    globex = accounts.get_account(conn, cast.smpp_globex_1.name)
    inbound_numbers.add_inbound_number(conn, SHELL, account, SHORT_CODE, "acme")
    inbound_numbers.add_inbound_number(conn, SHELL, globex, SHORT_CODE, "globex")
    async with run_smsc(config) as server:
        esmes = [await RawEsme.connect_and_bind(server.port, each) for each in (cast.smpp_acme_1, cast.smpp_globex_1)]
        say("Globex, please call")
        assert (await esmes[1].receive_deliver_sm()).short_message == b"Globex, please call"
        say("stop acme")
        assert (await esmes[0].receive_deliver_sm()).short_message == b"stop acme"
        assert (stopped(conn, cast.smpp_acme_1), stopped(conn, cast.smpp_globex_1)) == ([HANDSET], [])
        # Who is meant isn't said: both obey, and both are told.
        say("Arrêt", source="393330000001")
        assert [(await each.receive_deliver_sm()).data_coding for each in esmes] == [8, 8]
        assert stopped(conn, cast.smpp_globex_1) == ["393330000001"]
        assert stopped(conn, cast.smpp_acme_1) == ["393330000001", HANDSET]
