"""aiosmpplib: what trips its users, and how it comes back."""

from collections.abc import Callable, Iterator

import pytest

from portal.core import db
from portal.services.accounts import accounts, allowed_ips, refused_binds
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from tests.interop.driven import AIOSMPPLIB, LATIN_1, SAR_BY_THE_LIBRARY, UDH, DrivenClient, run_client
from tests.support import Cast, RunningServer, list_refused_binds, wait_until

ESME_ROK, ESME_RINVMSGLEN = 0, 1


@pytest.fixture
def client(server: RunningServer, cast: Cast) -> Iterator[DrivenClient]:
    """A transceiver of `smpp_acme_1`."""
    with run_client(AIOSMPPLIB, cast.smpp_acme_1, server.port, "transceiver") as bound:
        bound.wait_for_event("bind", status=ESME_ROK)
        yield bound


def test_returns_once_its_address_is_authorised_again(client: DrivenClient, conn: db.Connection, cast: Cast) -> None:
    account = accounts.get_account(conn, cast.smpp_acme_1.name)

    # ::1 stays in the list: the answer is the one to a wrong password.
    allowed_ips.remove_allowed_ip(
        conn, SHELL, account, allowed_ips.get_allowed_ip_by_network(conn, account.id, "127.0.0.1").id
    )
    client.wait_for_event("unbind")
    refusal = wait_until(lambda: list_refused_binds(conn, account.id))[0]
    assert (refusal.value, refusal.reason) == ("127.0.0.1", refused_binds.NOT_AUTHORISED)

    allowed_ips.add_allowed_ip(conn, SHELL, account, "127.0.0.1")
    client.wait_until(lambda: len(client.find_events("bind", status=ESME_ROK)) == 2)
    client.wait_for_event("answer", n=client.send("back again"), status=ESME_ROK)


def test_binds_anew_after_a_status_that_it_does_not_know(
    serve: Callable[..., RunningServer], conn: db.Connection, cast: Cast
) -> None:
    # It does not close the old connection, which keeps its place until Python collects it, or until the server finds
    # that nobody answers on it any more.
    server = serve(PORTAL_LIMITS_ENQUIRE_LINK_SECONDS="1", PORTAL_LIMITS_RESPONSE_SECONDS="1")
    with run_client(AIOSMPPLIB, cast.smpp_acme_1, server.port, "transceiver") as client:
        client.wait_for_event("bind", status=ESME_ROK)

        refused = client.send("0x401 is none of SMPP 3.4's own", LATIN_1)

        client.wait_until(lambda: len(client.find_events("bind", status=ESME_ROK)) == 2)
        client.wait_for_event("answer", n=client.send("and on it goes"), status=ESME_ROK)
        assert client.find_events("answer", n=refused) == []
    assert credits.get_balance(conn, cast.smpp_acme_1.id) == (1000 - 1) * credit_amounts.THOUSANDTHS


def test_makes_parts_too_long_where_characters_take_two_septets(client: DrivenClient) -> None:
    client.wait_for_event("answer", n=client.send("Costa 10 €. " * 20, UDH), status=ESME_RINVMSGLEN)


def test_ends_over_its_own_way_of_sar(client: DrivenClient) -> None:
    client.send("Ciao", SAR_BY_THE_LIBRARY)

    assert "UnboundLocalError" in client.wait_for_event("ended")["what"]
