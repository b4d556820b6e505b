"""The page of an account's last refused PDUs, with a real SMPP server, and without one."""

import asyncio
from collections.abc import Callable

import pytest

from portal.core import db
from portal.core.config import Config
from portal.services.accounts import refused_pdus
from tests.services.audit_log import list_audit_entries
from tests.smsc.esme import RawEsme, run_smsc
from tests.support import Cast, Person
from tests.web.acting import extract_text
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
PDUS = "/accounts/smpp-acme-1/refused/pdus"


async def test_what_a_client_was_refused_is_shown_in_words_and_fields(
    client: Client, cast: Cast, config: Config
) -> None:
    alice = client(cast.alice)
    assert alice.post(PDUS, data={"keep": "1"}).headers["Location"].endswith(PDUS)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit("393331234567", b"a secret", source="<b>X")
        pages = [await _get_beside(alice), await _get_beside(client(cast.bob))]
    for page in pages:
        text = extract_text(page)
        assert "submit_sm The sender <b>X isn't approved." in text
        assert "command_status ESME_RINVSRCADR 0x0A" in text
        assert "destination_addr 3933******67" in text
        assert "a secret" not in text


async def _get_beside(browser: Browser) -> str:
    """The page, while the SMPP server of this process answers."""
    return (await asyncio.to_thread(browser.get, PDUS)).text


def test_where_the_smpp_server_is_silent_the_page_says_so(client: Client, cast: Cast) -> None:
    text = extract_text(client(cast.alice).get(PDUS).text)
    assert "The SMPP server isn't answering" in text
    assert client(cast.alice).get(PDUS, headers={"HX-Request": "true"}).status_code == 200


def test_it_is_switched_on_for_a_day_and_off_and_stands_in_the_log(
    client: Client, cast: Cast, conn: db.Connection
) -> None:
    alice = client(cast.alice)
    assert "They are kept until" not in alice.get(PDUS).text
    alice.post(PDUS, data={"keep": "1"})
    assert refused_pdus.get_kept_until(conn, cast.smpp_acme_1.id)
    assert "They are kept until" in alice.get(PDUS).text
    alice.post(PDUS)
    assert refused_pdus.get_kept_until(conn, cast.smpp_acme_1.id) is None
    actions = [
        each.action for each in list_audit_entries(conn, cast.smpp_acme_1.id) if each.action == "account.refused_pdus"
    ]
    assert len(actions) == 2


@pytest.mark.parametrize(("who", "refusal", "page"), [("bob", 403, 200), ("charlie", 404, 404)])
def test_a_viewer_and_another_customer_switch_nothing(
    client: Client, cast: Cast, conn: db.Connection, who: str, refusal: int, page: int
) -> None:
    browser = client(getattr(cast, who))
    assert browser.post(PDUS, data={"keep": "1"}).status_code == refusal
    assert browser.get(PDUS).status_code == page
    assert refused_pdus.get_kept_until(conn, cast.smpp_acme_1.id) is None


def test_a_classic_account_has_none(client: Client, cast: Cast) -> None:
    assert client(cast.alice).get("/accounts/sms-acme-1/refused/pdus").status_code == 404


def test_it_is_said_in_italian(client: Client, cast: Cast) -> None:
    alice = client(cast.alice)
    alice.post("/language", data={"locale": "it", "next": "/"})
    text = extract_text(alice.get(PDUS).text)
    assert "PDU rifiutate" in text
    assert "Per chi cerca errori in un client" in text
