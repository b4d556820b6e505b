"""Who is connected, and who was turned away."""

from collections.abc import Callable

import pytest

from portal import db
from portal.services import allowed_ips, connections, credentials
from portal.services.audit import SHELL
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import words
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
SESSIONS = "/accounts/smpp-acme-1/sessions"
MINUTE_MS = 60_000


def test_nobody_is_connected(client: Client, cast: Cast) -> None:
    said = words(client(cast.alice).get(SESSIONS).text)
    assert "No client is connected" in said
    assert "Nobody was turned away." in said


def test_an_open_session_with_what_passes_through_it(client: Client, cast: Cast, conn: db.Connection) -> None:
    since = db.now_ms() - 180 * MINUTE_MS
    acting.connect(conn, "smpp-acme-1", bound_at=since, submitted=12_840, delivered=12_811, window=4)
    said = words(client(cast.alice).get(SESSIONS).text)
    assert "198.51.100.20 Transceiver TLS 1.3 3 hours ago" in said
    assert "4/10 12,840 12,811" in said


def test_what_is_not_encrypted_says_so(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.connect(conn, "smpp-acme-1", tls="", bind_type="receiver")
    assert "Receiver not encrypted" in words(client(cast.alice).get(SESSIONS).text)


def test_who_still_uses_the_old_password(client: Client, cast: Cast, conn: db.Connection, keys: object) -> None:
    alice = client(cast.alice)
    acting.connect(conn, "smpp-acme-1")
    assert "old password" not in alice.get(SESSIONS).text
    account = acting.account(conn, "smpp-acme-1")
    credentials.regenerate(conn, keys, SHELL, account, grace=15 * MINUTE_MS, send_mail=False)  # type: ignore[arg-type]
    acting.connect(conn, "smpp-acme-1", 2, address="198.51.100.21")
    said = words(alice.get(SESSIONS).text)
    assert "198.51.100.20 old password" in said
    assert "198.51.100.21 old password" not in said


REASONS = [
    (connections.WRONG_PASSWORD, "The password was wrong."),
    (connections.NOT_AUTHORISED, "It is not an authorised IP."),
    (connections.NO_IP, "No IP was authorised yet."),
    (connections.ACCOUNT_DISABLED, "The account was disabled."),
    (connections.TOO_MANY_BINDS, "As many sessions as the account may have were open already."),
    (connections.THROTTLED, "Too many attempts had failed within a minute"),
]


@pytest.mark.parametrize(("reason", "sentence"), REASONS)
def test_refused_attempts_in_plain_words(
    client: Client, cast: Cast, conn: db.Connection, reason: str, sentence: str
) -> None:
    acting.refuse(conn, "smpp-acme-1", "203.0.113.7", reason, times=3)
    page = client(cast.alice).get(SESSIONS).text
    assert f"203.0.113.7 {sentence}" in words(page)
    can_be_mended = reason in (connections.NOT_AUTHORISED, connections.NO_IP)
    assert ('form="authorise" name="network" value="203.0.113.7"' in page) is can_be_mended


def test_the_remedy_works_and_then_is_no_more_offered(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.refuse(conn, "smpp-acme-1", "203.0.113.7")
    alice = client(cast.alice)
    assert alice.post("/accounts/smpp-acme-1/ips", data={"network": "203.0.113.7"}, htmx="authorise").status_code == 200
    page = alice.get(SESSIONS).text
    assert "It is not an authorised IP. It is one now." in words(page)
    assert 'value="203.0.113.7"' not in page


def test_an_attempt_from_a_range_that_was_added_is_mended_too(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.refuse(conn, "smpp-acme-1", "203.0.113.7")
    allowed_ips.add(conn, SHELL, acting.account(conn, "smpp-acme-1"), "203.0.113.0/24")
    assert "It is one now." in client(cast.alice).get(SESSIONS).text


def test_a_viewer_sees_it_all_without_the_remedy(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.connect(conn, "smpp-acme-1")
    acting.refuse(conn, "smpp-acme-1", "203.0.113.7")
    page = client(cast.bob).get(SESSIONS).text
    assert "198.51.100.20" in page
    assert "203.0.113.7" in page
    assert '"authorise"' not in page


def test_another_customer_finds_nothing(client: Client, cast: Cast) -> None:
    assert client(cast.charlie).get(SESSIONS).status_code == 404


def test_a_classic_account_has_no_sessions(client: Client, cast: Cast) -> None:
    assert client(cast.alice).get("/accounts/sms-acme-1/sessions").status_code == 404
