"""The npm package `smpp`: TLS, and what trips its users."""

from portal.core import db
from portal.services.accounts import session_records
from portal.services.common import credit_amounts
from portal.services.credits import credits
from tests.interop.driven import CODING_BY_THE_PACKAGE, NODE_SMPP, run_client
from tests.support import Cast, RunningServer, wait_until

ESME_ROK = 0
ESME_RUNSDATACODING = 0x401


def test_binds_over_tls_and_trusts_no_other_certificate(server: RunningServer, conn: db.Connection, cast: Cast) -> None:
    with run_client(NODE_SMPP, cast.smpp_acme_1, server.tls_port, "transceiver", server.data / "smpp.crt") as client:
        client.wait_for_event("bind", status=ESME_ROK)
        client.wait_for_receipt(client.wait_for_event("answer", n=client.send("Ciao"), status=ESME_ROK)["id"])
        assert (
            wait_until(lambda: session_records.list_open_smpp_sessions(conn, cast.smpp_acme_1.id))[0].tls == "TLSv1.3"
        )

    other = server.data / "other.crt"
    other.write_text("")
    with run_client(NODE_SMPP, cast.smpp_acme_1, server.tls_port, "transceiver", other) as client:
        client.wait_for_event("error", code="DEPTH_ZERO_SELF_SIGNED_CERT")
        assert client.find_events("bind") == []


def test_says_ascii_of_gsm_text_unless_told_otherwise(server: RunningServer, conn: db.Connection, cast: Cast) -> None:
    with run_client(NODE_SMPP, cast.smpp_acme_1, server.port, "transceiver") as client:
        client.wait_for_event("bind", status=ESME_ROK)
        client.wait_for_event("answer", n=client.send("Ciao", CODING_BY_THE_PACKAGE), status=ESME_RUNSDATACODING)
        # What has a character beyond GSM 03.38 and Latin-1 goes as UCS-2.
        client.wait_for_event("answer", n=client.send("Ciao 😀", CODING_BY_THE_PACKAGE), status=ESME_ROK)
    assert credits.get_balance(conn, cast.smpp_acme_1.id) == (1000 - 1) * credit_amounts.THOUSANDTHS
