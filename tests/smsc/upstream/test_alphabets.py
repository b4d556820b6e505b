"""Texts in the alphabets of carriers, through the whole server (pain 5)."""

from portal.core import gsm0338
from portal.services.common import message_states
from portal.services.operations import self_check
from portal.smsc.protocol.constants import CommandStatus, TlvTag
from tests.smsc.esme import RawEsme, wait_until
from tests.smsc.upstream.running import read_message, run_bound


async def test_pain_5_a_text_costs_what_was_promised_whatever_goes_out(config, cast, conn, add_upstream):
    text = "@é{}€" + "a" * 100
    async with run_bound(config, add_upstream, charset="latin-1", long_texts="payload") as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(text=gsm0338.encode(text))
        submit = await carrier.read_submit()
        # Latin-1 has no €, and in UCS-2 it is two parts.
        assert (submit.data_coding, submit.tlvs[TlvTag.MESSAGE_PAYLOAD].decode("utf-16-be")) == (8, text)
        carrier.answer(submit, message_id="ab12")
        await wait_until(lambda: read_message(conn, answer.message_id)["upstream_id"] == "ab12")
        message = read_message(conn, answer.message_id)
        (price_of_one,) = conn.execute("SELECT price / parts FROM messages").fetchone()
        assert (message["parts"], message["price"]) == (1, price_of_one)
        await esme.submit(text=gsm0338.encode("@é{}"))
        submit = await carrier.read_submit()
        assert (submit.data_coding, submit.short_message) == (0, b"@\xe9{}")
        assert self_check.list_problem_texts(conn) == []


async def test_pain_5_a_text_that_may_not_be_changed_has_failed(config, cast, conn, add_upstream, caplog):
    caplog.set_level("INFO", "portal.smsc.upstream")
    settings = {"charset": "ascii", "missing_characters": "fail"}
    async with run_bound(config, add_upstream, **settings) as (server, _, carrier):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        answer = await esme.submit(text=gsm0338.encode("perché"))
        assert answer.status == CommandStatus.ESME_ROK
        assert "stat:REJECTD err:101" in (await esme.receive_deliver_sm()).short_message.decode()
        message = read_message(conn, answer.message_id)
        assert (message["state"], message["ptt"]) == (message_states.REJECTED, message_states.PTT_INVALID_CONTENT)
        assert message["upstream_status"] == "not sent: ascii lacks a character of the text"
        # Of a campaign not each is told.
        await esme.submit(text=gsm0338.encode("perché"), registered_delivery=0)
        await esme.submit(text=b"perche'")
        assert (await carrier.read_submit()).short_message == b"perche'"
        told = [each.getMessage() for each in caplog.records if "lacks a character" in each.getMessage()]
        assert told == ["upstream carrier refuses messages: not sent: ascii lacks a character of the text"]
