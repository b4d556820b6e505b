"""Messages from before ids were short: their clients go on using the ids that they were given."""

import re

import pytest

from portal import migrations
from portal.core import db
from portal.services.accounts import accounts
from portal.services.common import message_states
from portal.services.common.audit import SHELL
from portal.services.messages import inbound, inbound_numbers
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.operations import self_check
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import CancelSm, QuerySm
from tests.migrations import former_ids
from tests.smsc.esme import RawEsme, run_smsc, wait_until

LATER = "000000010000000R"


def receipt_ids(receipt):
    """The id that a receipt names, in all its places."""
    (in_text,) = re.findall(rb"^id:(\d+) ", receipt.short_message)
    in_tlvs = {receipt.tlvs[tag].rstrip(b"\0") for tag in (TlvTag.RECEIPTED_MESSAGE_ID, TlvTag.OUTGOING_ID)}
    assert in_tlvs == {in_text}
    return in_text.decode()


async def cancel(esme, message_id):
    message = CancelSm(next(esme.sequences), message_id=message_id, source_ton=5, source="ACME")
    return (await esme.request(message)).status


@pytest.mark.slow
@pytest.mark.parametrize("raised_counter", [0, 4_095, 1_040_000])
async def test_a_client_goes_on_with_the_ids_that_it_was_given(config, cast, conn, data, raised_counter):
    inbound_numbers.add_inbound_number(conn, SHELL, accounts.get_account(conn, cast.smpp_acme_1.name), "48484")
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, CommandId.BIND_TRANSMITTER)
        short_ids = [
            (await esme.submit()).message_id,
            (await esme.submit(schedule_delivery_time=LATER)).message_id,
        ]
        await wait_until(lambda: conn.execute("SELECT count(*) FROM deliveries").fetchone()[0] == 1)
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage("393337654321", "48484", "Yes")])
    (short_received_id,) = conn.execute("SELECT id FROM received").fetchone()
    file = data / "former.db"
    former_ids.write_former_database(conn, file, lambda _: raised_counter)
    conn.close()
    file.replace(data / db.FILE_NAME)
    delivered, dated, received = (
        str(former_ids.former_id(int(each), raised_counter)) for each in (*short_ids, short_received_id)
    )
    assert all(len(each) == 19 for each in (delivered, dated, received))

    migrations.migrate(data / db.FILE_NAME)
    conn = db.connect(data / db.FILE_NAME)
    stored = [str(row["id"]) for row in conn.execute("SELECT id FROM messages ORDER BY id")]
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        receipt = await esme.receive_deliver_sm()
        assert receipt_ids(receipt) == delivered
        incoming = await esme.receive_deliver_sm()
        assert incoming.tlvs[TlvTag.INCOMING_ID] == f"{received}\0".encode()
        for asked in (delivered, stored[0]):
            answer = await esme.request(QuerySm(next(esme.sequences), asked, 5, 0, "ACME"))
            assert (answer.status, answer.message_id, answer.message_state) == (0, asked, message_states.DELIVERED)
        unknown = QuerySm(next(esme.sequences), str(int(delivered) + 7), 5, 0, "ACME")
        assert (await esme.request(unknown)).status == CommandStatus.ESME_RINVMSGID
        assert await cancel(esme, dated) == CommandStatus.ESME_ROK
        assert receipt_ids(await esme.receive_deliver_sm()) == dated
        assert await cancel(esme, stored[1]) == CommandStatus.ESME_RCANCELFAIL
        new = (await esme.submit()).message_id
        assert int(new) < 1 << 53
        assert receipt_ids(await esme.receive_deliver_sm()) == new
    assert self_check.list_problem_texts(conn) == []
    conn.close()
