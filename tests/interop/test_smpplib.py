"""smpplib, the client that most Python programs use."""

import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from smpplib import client as smpplib
from smpplib import consts, exceptions, gsm

from portal.core import db
from portal.services.accounts import accounts, allowed_ips, refused_binds, session_records
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.credits import credits
from tests.interop.conftest import HoldDatabase, SetLimits, StartOutage
from tests.smpplib_esme import NUMBER, RECEIVER, TRANSCEIVER, TRANSMITTER, SmpplibEsme, try_bind
from tests.support import DEADLINE_S, AccountLogin, Cast, RunningServer, list_refused_binds, list_submitted, wait_until

TEXTS = {
    "Ciao àèì € {}": 1,
    "x" * 160: 1,
    "Un testo lungo. " * 20: 3,
    "Grüße 😀 你好": 1,
    "Ещё один длинный текст. " * 6: 3,
}
"""What smpplib sends as GSM 03.38 or UCS-2, and in how many parts, each with a UDH."""

# SMPP 3.4, 5.2.12; smpplib has no name for it.
DELIVERY_RECEIPT = 0x04
# Fates of the simulator.
UNDELIVERABLE, PENDING = "393401234001", "393401234006"


@pytest.fixture
def esme(server: RunningServer, cast: Cast) -> Iterator[SmpplibEsme]:
    """A transceiver of `smpp_acme_1`."""
    with SmpplibEsme(server.port) as bound:
        assert bound.bind(cast.smpp_acme_1) == consts.SMPP_ESME_ROK
        yield bound


def test_sends_as_transmitter_and_hears_as_receiver(server: RunningServer, cast: Cast) -> None:
    with SmpplibEsme(server.port) as transmitter, SmpplibEsme(server.port) as receiver:
        assert transmitter.bind(cast.smpp_acme_1, TRANSMITTER) == consts.SMPP_ESME_ROK
        assert receiver.bind(cast.smpp_acme_1, RECEIVER) == consts.SMPP_ESME_ROK
        (message_id,) = transmitter.send_text("Hello")
        assert receiver.wait_for_receipt(message_id).message_state == consts.SMPP_MESSAGE_STATE_DELIVERED


def test_each_part_is_acknowledged_charged_and_reported(esme: SmpplibEsme, conn: db.Connection, cast: Cast) -> None:
    sent = 0
    for text, parts in TEXTS.items():
        ids = esme.send_text(text)

        assert len(set(ids)) == parts
        for message_id in ids:
            receipt = esme.wait_for_receipt(message_id)
            assert receipt.short_message.startswith(f"id:{message_id} sub:001 dlvrd:001 submit date:".encode())
            assert b" stat:DELIVRD err:000 text:" in receipt.short_message
            assert receipt.esm_class == DELIVERY_RECEIPT
            assert (receipt.source_addr, receipt.destination_addr) == (NUMBER.encode(), b"ACME")
        found = list_submitted(conn, cast.smpp_acme_1.id, limit=parts)[::-1]
        assert [str(each.id) for each in found] == ids
        assert "".join(each.text for each in found) == text
        assert {each.state for each in found} == {DELIVERED}
        sent += parts
        assert credits.get_balance(conn, cast.smpp_acme_1.id) == (1000 - sent) * credit_amounts.THOUSANDTHS


def test_a_message_payload_is_charged_by_its_parts(esme: SmpplibEsme, conn: db.Connection, cast: Cast) -> None:
    answer = esme.submit(b"", message_payload=gsm.gsm_encode("x" * 400))

    assert answer.status == consts.SMPP_ESME_ROK
    receipt = esme.wait_for_receipt(answer.message_id.decode())
    assert b" sub:003 dlvrd:003 " in receipt.short_message
    assert credits.get_balance(conn, cast.smpp_acme_1.id) == (1000 - 3) * credit_amounts.THOUSANDTHS


def test_parts_with_sar_parameters_are_charged_each(esme: SmpplibEsme, conn: db.Connection, cast: Cast) -> None:
    text = "Un testo lungo. " * 20
    parts = [text[start : start + 153] for start in range(0, len(text), 153)]

    answers = [
        esme.submit(part.encode(), sar_msg_ref_num=7, sar_total_segments=len(parts), sar_segment_seqnum=number)
        for number, part in enumerate(parts, 1)
    ]

    assert [each.status for each in answers] == [consts.SMPP_ESME_ROK] * 3
    for each in answers:
        assert b" stat:DELIVRD " in esme.wait_for_receipt(each.message_id.decode()).short_message
    assert credits.get_balance(conn, cast.smpp_acme_1.id) == (1000 - 3) * credit_amounts.THOUSANDTHS


def test_more_than_its_throughput_is_throttled_and_may_be_sent_again(
    esme: SmpplibEsme, limit: SetLimits, conn: db.Connection, cast: Cast
) -> None:
    limit(throughput=5)

    sequences = [esme.submit_nowait(b"message %d" % number) for number in range(10)]
    statuses = [esme.wait_for_response(sequence).status for sequence in sequences]

    throttled = statuses.count(consts.SMPP_ESME_RTHROTTLED)
    assert throttled
    assert statuses.count(consts.SMPP_ESME_ROK) == 10 - throttled
    wait_until(lambda: esme.submit(b"once more").status == consts.SMPP_ESME_ROK)
    assert credits.get_balance(conn, cast.smpp_acme_1.id) == (1000 - 10 + throttled - 1) * credit_amounts.THOUSANDTHS


def test_more_than_its_window_is_throttled_and_may_be_sent_again(
    esme: SmpplibEsme, limit: SetLimits, hold: HoldDatabase
) -> None:
    limit(windowing=2)

    with hold():
        first, second, third = [esme.submit_nowait(b"message %d" % number) for number in range(3)]
        assert esme.wait_for_response(third).status == consts.SMPP_ESME_RTHROTTLED

    assert [esme.wait_for_response(each).status for each in (first, second)] == [consts.SMPP_ESME_ROK] * 2
    assert esme.submit(b"message 2").status == consts.SMPP_ESME_ROK


def test_a_receipt_says_that_and_why_a_message_did_not_arrive(esme: SmpplibEsme) -> None:
    (message_id,) = esme.send_text("Hello", to=UNDELIVERABLE)

    receipt = esme.wait_for_receipt(message_id)
    assert receipt.message_state == consts.SMPP_MESSAGE_STATE_UNDELIVERABLE
    assert receipt.network_error_code == b"\x03\x03\x20"  # GSM, 800
    assert b" dlvrd:000 " in receipt.short_message
    assert b" stat:UNDELIV err:800 " in receipt.short_message


def test_what_may_not_be_sent_is_refused_with_its_code_and_costs_nothing(
    esme: SmpplibEsme, conn: db.Connection, cast: Cast
) -> None:
    assert esme.submit(b"Hello", source="GLOBEX").status == consts.SMPP_ESME_RINVSRCADR
    assert esme.submit(b"Hello", to="881612345678").status == consts.SMPP_ESME_RINVDSTADR
    assert esme.submit(b"Hello", data_coding=4).status == 0x401
    assert esme.submit(b"Hello\xff").status == 0x402
    assert credits.get_balance(conn, cast.smpp_acme_1.id) == 1000 * credit_amounts.THOUSANDTHS


def test_what_the_credits_do_not_cover_is_refused(server: RunningServer, conn: db.Connection, cast: Cast) -> None:
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    credits.transfer_credits(
        conn, SHELL, account, accounts.get_account(conn, cast.smpp_acme_2.name), 998 * credit_amounts.THOUSANDTHS
    )
    with SmpplibEsme(server.port) as esme:
        esme.bind(cast.smpp_acme_1)
        three_parts = esme.submit(b"", message_payload=b"x" * 400)
        two_parts = esme.submit(b"", message_payload=b"x" * 300)

    assert three_parts.status == consts.SMPP_ESME_RSUBMITFAIL
    assert two_parts.status == consts.SMPP_ESME_ROK
    assert credits.get_balance(conn, account.id) == 0


def test_receipts_wait_for_the_next_receiver(server: RunningServer, conn: db.Connection, cast: Cast) -> None:
    with SmpplibEsme(server.port) as transmitter:
        transmitter.bind(cast.smpp_acme_1, TRANSMITTER)
        (message_id,) = transmitter.send_text("Hello")
        wait_until(lambda: list_submitted(conn, cast.smpp_acme_1.id)[0].state == DELIVERED)
        with SmpplibEsme(server.port) as receiver:
            receiver.bind(cast.smpp_acme_1, RECEIVER)
            assert receiver.wait_for_receipt(message_id)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_gets_the_receipts_that_waited_over_a_restart(
    server: RunningServer, outage: StartOutage, cast: Cast, how: signal.Signals
) -> None:
    with SmpplibEsme(server.port) as esme:
        esme.bind(cast.smpp_acme_1)
        (waiting,) = esme.send_text("reported while the server is away", to=PENDING)
        with outage(server, how) as delivered:
            # It does not reconnect by itself.
            if how == signal.SIGTERM:
                esme.wait_for_unbind()
            else:
                # The server's processes end one after the other: it may still find the time to say that it goes.
                with suppress(exceptions.ConnectionError, ConnectionError):
                    esme.wait_for_unbind()
            delivered(waiting)
    with SmpplibEsme(server.port) as esme:
        assert esme.bind(cast.smpp_acme_1) == consts.SMPP_ESME_ROK
        assert b" stat:DELIVRD err:000 " in esme.wait_for_receipt(waiting).short_message
        (afterwards,) = esme.send_text("and on it goes")
        assert esme.wait_for_receipt(afterwards)


def test_fails_at_vendor_parameters_unless_told_to_skip_them(server: RunningServer, cast: Cast) -> None:
    client = smpplib.Client("127.0.0.1", server.port, timeout=DEADLINE_S, allow_unknown_opt_params=False)
    client.connect()
    client.bind_transceiver(system_id=cast.smpp_acme_1.name, password=cast.smpp_acme_1.password)
    client.send_message(
        source_addr_ton=consts.SMPP_TON_ALNUM,
        source_addr="ACME",
        destination_addr=NUMBER,
        short_message=b"Hello",
        registered_delivery=True,
    )

    client.read_once()  # submit_sm_resp
    with pytest.raises(exceptions.UnknownCommandError, match="0x1401"):
        client.read_once()

    client._socket.close()
    client._socket = None


def test_binds_over_tls_1_3_only(server: RunningServer, conn: db.Connection, cast: Cast) -> None:
    trusting = ssl.create_default_context(cafile=server.data / "smpp.crt")
    # smpplib names no host to the TLS layer, so there is none to check; the certificate itself still is.
    trusting.check_hostname = False
    with SmpplibEsme(server.tls_port, tls=trusting) as esme:
        assert esme.tls_version == "TLSv1.3"
        assert esme.bind(cast.smpp_acme_1) == consts.SMPP_ESME_ROK
        assert esme.wait_for_receipt(esme.send_text("Hello")[0])
        session = wait_until(lambda: session_records.list_open_smpp_sessions(conn, cast.smpp_acme_1.id))[0]
        assert session.tls == "TLSv1.3"

    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(exceptions.ConnectionError) as failed, SmpplibEsme(server.tls_port, tls=trusting):
        """Not reached: the handshake fails."""
    assert isinstance(failed.value.__context__, ssl.SSLError)


def test_binds_over_ipv6(serve: Callable[..., RunningServer], conn: db.Connection, cast: Cast) -> None:
    server = serve(PORTAL_SMPP_HOST="::")
    with SmpplibEsme(server.port, host="::1") as esme:
        assert esme.bind(cast.smpp_acme_1) == consts.SMPP_ESME_ROK
        assert esme.wait_for_receipt(esme.send_text("Hello")[0])
        session = wait_until(lambda: session_records.list_open_smpp_sessions(conn, cast.smpp_acme_1.id))[0]
        assert session.address == "::1"
    # On a socket for both, IPv4 clients come mapped into IPv6; 127.0.0.1 in the list still means them.
    wait_until(lambda: not session_records.list_open_smpp_sessions(conn, cast.smpp_acme_1.id))
    assert try_bind(server, cast.smpp_acme_1) == consts.SMPP_ESME_ROK


def test_refused_binds_tell_nothing_from_outside_and_the_reason_inside(
    server: RunningServer, conn: db.Connection, cast: Cast
) -> None:
    unlisted = accounts.get_account(conn, cast.smpp_globex_1.name)
    allowed_ips.remove_allowed_ip(
        conn, SHELL, unlisted, allowed_ips.get_allowed_ip_by_network(conn, unlisted.id, "127.0.0.1").id
    )
    wait_until(lambda: accounts.get_account(conn, unlisted.name).status == accounts.SUCCESS)

    assert try_bind(server, AccountLogin(0, "smpp-nobody-1", "xxxxxxxx")) == consts.SMPP_ESME_RINVPASWD
    assert try_bind(server, cast.smpp_acme_1, password="xxxxxxxx") == consts.SMPP_ESME_RINVPASWD
    assert try_bind(server, cast.smpp_globex_1) == consts.SMPP_ESME_RINVPASWD
    assert try_bind(server, cast.smpp_acme_2, password="xxxxxxxx") == consts.SMPP_ESME_RINVPASWD
    assert try_bind(server, cast.smpp_acme_2) == consts.SMPP_ESME_RBINDFAIL

    def reasons(account_id: int) -> list[str]:
        return [each.reason for each in list_refused_binds(conn, account_id)]

    wait_until(lambda: reasons(cast.smpp_acme_2.id) == [refused_binds.NO_IP])
    assert reasons(cast.smpp_acme_1.id) == [refused_binds.WRONG_PASSWORD]
    assert reasons(unlisted.id) == [refused_binds.NOT_AUTHORISED]


def test_one_bind_of_a_kind_is_allowed_at_a_time(esme: SmpplibEsme, server: RunningServer, cast: Cast) -> None:
    for kind in (TRANSCEIVER, TRANSMITTER, RECEIVER):
        assert try_bind(server, cast.smpp_acme_1, kind) == consts.SMPP_ESME_RALYBND


def test_disabling_the_account_unbinds_it_at_once(
    esme: SmpplibEsme, server: RunningServer, conn: db.Connection, cast: Cast
) -> None:
    accounts.disable_account(conn, SHELL, accounts.get_account(conn, cast.smpp_acme_1.name))

    esme.wait_for_unbind()
    assert try_bind(server, cast.smpp_acme_1) == consts.SMPP_ESME_RBINDFAIL
