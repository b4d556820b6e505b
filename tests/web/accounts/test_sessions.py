"""The page of open sessions and refused attempts."""

from collections.abc import Callable

import pytest

from portal.core import clock, db, i18n
from portal.core.crypto import Keys
from portal.services.accounts import allowed_ips, credentials, refused_binds, session_records
from portal.services.accounts.refused_binds import RefusedBind
from portal.services.accounts.session_records import SmppSessionProgress
from portal.services.common.audit import SHELL
from tests.services.audit_log import list_audit_entries
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
SESSIONS = "/accounts/smpp-acme-1/sessions"
MINUTE_MS = 60_000


def test_nobody_is_connected(client: Client, cast: Cast) -> None:
    page_text = extract_text(client(cast.alice).get(SESSIONS).text)
    assert "No client is connected" in page_text
    assert "Nothing was refused." in page_text


def test_an_open_session_with_what_passes_through_it(client: Client, cast: Cast, conn: db.Connection) -> None:
    since = clock.now_ms() - 180 * MINUTE_MS
    acting.open_session(conn, "smpp-acme-1", bound_at=since, submitted=12_840, delivered=12_811, window=4)
    page_text = extract_text(client(cast.alice).get(SESSIONS).text)
    assert "198.51.100.20 Transceiver · TLS 1.3 3 hours ago" in page_text
    assert "active: now 4/10 0 12,840 12,811" in page_text


def test_what_was_refused_stands_beside_what_was_accepted(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.open_session(conn, "smpp-acme-1", submitted=12_840, delivered=12_811)
    alice = client(cast.alice)
    seen = alice.get(SESSIONS).text.partition("seen=")[2].partition('"')[0].partition("&")[0]
    progress = SmppSessionProgress(1, clock.now_ms(), 12_840, 12_811, 0, refused=1_180)
    session_records.update_smpp_session_progress(conn, [progress])
    part = alice.get(f"/accounts/smpp-acme-1/live?page=sessions&seen={seen}", htmx=True).text
    assert "12,840 1,180 refused 12,811" in extract_text(part)
    assert 'href="/accounts/smpp-acme-1/refused?kind=message"' in part


def test_all_that_was_refused_is_one_step_away(client: Client, cast: Cast) -> None:
    alice = client(cast.alice)
    page = alice.get(SESSIONS).text
    for address in ("/accounts/smpp-acme-1/refused", "/accounts/smpp-acme-1/refused?kind=bind"):
        assert f'href="{address}"' in page
        assert alice.get(address).status_code == 200


@pytest.mark.parametrize(
    ("seconds", "words_for_it"),
    [(5, "now"), (30, "less than a minute ago"), (150, "2 minutes ago"), (45 * 60, "45 minutes ago")],
)
def test_when_a_client_was_heard_last(
    client: Client, cast: Cast, conn: db.Connection, seconds: int, words_for_it: str
) -> None:
    acting.open_session(conn, "smpp-acme-1", seen_at=clock.now_ms() - seconds * 1000)
    assert f"active: {words_for_it} 0/10" in extract_text(client(cast.alice).get(SESSIONS).text)


def test_the_graph_of_what_passes_a_second(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.open_session(conn, "smpp-acme-1")
    conn.execute("UPDATE connections SET rates = '5 0 0.1 12.5'")
    page = client(cast.alice).get(SESSIONS).text
    assert '<path d="M52 20V12H54V20H56V19H58V0H60V20z" />' in page
    assert 'aria-label="In the last minute at most 12.5 a second"' in page
    assert "0/10 12.5 max 12.5 0 0" in extract_text(page)


def test_thousands_of_sessions_are_counted_and_the_first_are_shown(
    client: Client, cast: Cast, conn: db.Connection
) -> None:
    acting.open_session(conn, "smpp-acme-1")
    conn.execute(
        "WITH RECURSIVE number(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM number WHERE n < 1200)"
        " INSERT INTO connections (id, account_id, address, bind_type, tls, password_id, bound_at, seen_at)"
        " SELECT n, account_id, address, bind_type, tls, password_id, bound_at, seen_at FROM connections, number"
    )
    page_text = extract_text(client(cast.alice).get(SESSIONS).text)
    assert "Connected now 1,200" in page_text
    assert page_text.count("Transceiver") == 50
    assert "1,150 more sessions are open." in page_text


def test_what_is_not_encrypted_says_so(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.open_session(conn, "smpp-acme-1", tls="", bind_type="receiver")
    assert "Receiver not encrypted" in extract_text(client(cast.alice).get(SESSIONS).text)


def test_who_still_uses_the_old_password(client: Client, cast: Cast, conn: db.Connection, keys: object) -> None:
    alice = client(cast.alice)
    acting.open_session(conn, "smpp-acme-1")
    assert "old password" not in alice.get(SESSIONS).text
    account = acting.get_account(conn, "smpp-acme-1")
    credentials.regenerate_smpp_password(conn, keys, SHELL, account, grace_ms=15 * MINUTE_MS, send_mail=False)  # type: ignore[arg-type]
    acting.open_session(conn, "smpp-acme-1", 2, address="198.51.100.21")
    page_text = extract_text(alice.get(SESSIONS).text)
    assert "198.51.100.20 old password" in page_text
    assert "198.51.100.21 old password" not in page_text
    assert "1 session still uses the old password, which is good until" in page_text


REASONS = [
    (refused_binds.WRONG_PASSWORD, "The password was wrong."),
    (refused_binds.REPLACED_PASSWORD, "The password it uses was replaced."),
    (refused_binds.NOT_AUTHORISED, "It is not an authorised IP."),
    (refused_binds.NO_IP, "No IP was authorised yet."),
    (refused_binds.ACCOUNT_DISABLED, "The account was disabled."),
    (refused_binds.TOO_MANY_BINDS, "As many sessions as the account may have were open already."),
    (refused_binds.THROTTLED, "Too many attempts had failed just before"),
]


@pytest.mark.parametrize(("reason", "sentence"), REASONS)
def test_refused_attempts_in_plain_words(
    client: Client, cast: Cast, conn: db.Connection, reason: str, sentence: str
) -> None:
    acting.refuse_binds(conn, "smpp-acme-1", "203.0.113.7", reason, times=3)
    page = client(cast.alice).get(SESSIONS).text
    assert f"203.0.113.7 {sentence}" in extract_text(page)
    can_be_mended = reason in (refused_binds.NOT_AUTHORISED, refused_binds.NO_IP)
    assert ('form="authorise" name="network" value="203.0.113.7"' in page) is can_be_mended


def test_how_often_and_since_when(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.refuse_binds(conn, "smpp-acme-1", "203.0.113.7", refused_binds.WRONG_PASSWORD, times=12)
    acting.refuse_binds(conn, "smpp-acme-1", "203.0.113.8", refused_binds.WRONG_PASSWORD)
    at = i18n.format_short_date_time(clock.now_ms(), clock.now_ms(), "UTC")
    conn.execute("UPDATE refusals SET first_at = ?", (clock.now_ms(),))
    page_text = extract_text(client(cast.alice).get(SESSIONS).text)
    assert f"generate a new one. 12 since {at} " in page_text
    assert page_text.count("since") == 1


PASSWORD_LINK = 'href="/accounts/smpp-acme-1/password" data-dialog'


def test_a_password_that_was_replaced_with_when_and_its_remedy(
    client: Client, cast: Cast, conn: db.Connection, keys: Keys
) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    old = credentials.find_smpp_password_info(conn, account.id)
    assert old
    credentials.regenerate_smpp_password(conn, keys, SHELL, account, send_mail=False)
    conn.execute(
        "UPDATE smpp_passwords SET replaced_at = 1762178520000, created_at = created_at - 60000 WHERE id = ?", (old.id,)
    )
    conn.execute("UPDATE smpp_passwords SET created_at = created_at - 60000")
    refused = RefusedBind(account.id, "203.0.113.7", refused_binds.REPLACED_PASSWORD, clock.now_ms(), old.id)
    refused_binds.record_refused_binds(conn, [refused])
    alice = client(cast.alice)
    page = alice.get(SESSIONS).text
    assert "The password it uses was replaced (3 Nov, 14:02)." in extract_text(page)
    assert PASSWORD_LINK in page
    conn.execute("UPDATE refusals SET last_at = last_at - 1000")
    credentials.regenerate_smpp_password(conn, keys, SHELL, account, send_mail=False)
    page = alice.get(SESSIONS).text
    assert "A new password has been generated since: the client needs that one." in extract_text(page)
    assert "It would be accepted now." not in page
    assert PASSWORD_LINK not in page


def test_the_latest_attempts_are_shown_and_the_others_counted(client: Client, cast: Cast, conn: db.Connection) -> None:
    for number in range(30):
        acting.refuse_binds(conn, "smpp-acme-1", f"203.0.113.{number}")
    page_text = extract_text(client(cast.alice).get(SESSIONS).text)
    assert page_text.count("It is not an authorised IP.") == 25
    assert "5 more were refused before those." in page_text


def test_the_remedy_works_and_then_is_no_more_offered(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.refuse_binds(conn, "smpp-acme-1", "203.0.113.7")
    alice = client(cast.alice)
    assert alice.post("/accounts/smpp-acme-1/ips", data={"network": "203.0.113.7"}, htmx="authorise").status_code == 200
    page = alice.get(SESSIONS).text
    assert "It is not an authorised IP. It would be accepted now." in extract_text(page)
    assert 'value="203.0.113.7"' not in page


def test_an_attempt_from_a_range_that_was_added_is_mended_too(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.refuse_binds(conn, "smpp-acme-1", "203.0.113.7")
    allowed_ips.add_allowed_ip(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "203.0.113.0/24")
    assert "It would be accepted now." in client(cast.alice).get(SESSIONS).text


def test_a_viewer_sees_it_all_without_the_remedy(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.open_session(conn, "smpp-acme-1")
    acting.refuse_binds(conn, "smpp-acme-1", "203.0.113.7")
    page = client(cast.bob).get(SESSIONS).text
    assert "198.51.100.20" in page
    assert "203.0.113.7" in page
    assert '"authorise"' not in page
    assert PASSWORD_LINK not in page
    assert "/end" not in page


def test_another_customer_finds_nothing(client: Client, cast: Cast) -> None:
    assert client(cast.charlie).get(SESSIONS).status_code == 404


def test_a_classic_account_has_no_sessions(client: Client, cast: Cast) -> None:
    assert client(cast.alice).get("/accounts/sms-acme-1/sessions").status_code == 404


# --- ending a session


def end_of(conn: db.Connection, number: int = 1, **values: object) -> str:
    acting.open_session(conn, "smpp-acme-1", number, **values)
    return f"{SESSIONS}/{number}/end"


def ending(conn: db.Connection) -> list[int]:
    return [row["id"] for row in conn.execute("SELECT id FROM connections WHERE ending_at IS NOT NULL")]


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_it_asks_first_and_says_what_keeps_the_client_out(
    client: Client, cast: Cast, conn: db.Connection, htmx: bool | str
) -> None:
    entry = allowed_ips.add_allowed_ip(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "198.51.100.0/28")
    address = end_of(conn, address="198.51.100.7")
    page = client(cast.alice).get(address, htmx=htmx).text
    page_text = extract_text(page)
    assert "The session of 198.51.100.7 ends." in page_text
    assert "Its client may connect again at once" in page_text
    assert f'href="/accounts/smpp-acme-1/ips/{entry.id}/delete" data-dialog>Delete 198.51.100.0/28' in page
    assert PASSWORD_LINK in page
    assert "Disconnect 198.51.100.7" in page_text
    assert ending(conn) == []


def test_where_two_entries_let_the_client_in_it_leads_to_their_list(
    client: Client, cast: Cast, conn: db.Connection
) -> None:
    for each in ("198.51.100.7", "198.51.100.0/28"):
        allowed_ips.add_allowed_ip(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), each)
    page = client(cast.alice).get(end_of(conn, address="198.51.100.7"), htmx="dialog").text
    assert 'href="/accounts/smpp-acme-1/options/smpp">Authorised IPs' in page


def test_without_javascript_the_session_is_ended_and_the_page_says_so(
    client: Client, cast: Cast, conn: db.Connection
) -> None:
    alice, address = client(cast.alice), end_of(conn)
    end_of(conn, 2)
    answer = alice.post(address, follow_redirects=True)
    assert answer.request.path == SESSIONS
    assert "The session of 198.51.100.20 is being disconnected." in extract_text(answer.text)
    assert ending(conn) == [1]
    assert f'href="{address}"' not in answer.text
    assert f'href="{SESSIONS}/2/end"' in answer.text
    (entry,) = (each for each in list_audit_entries(conn, cast.smpp_acme_1.id) if each.action == "session.end")
    assert entry.actor == cast.alice.email


def test_in_the_dialog_the_list_follows_at_once(client: Client, cast: Cast, conn: db.Connection) -> None:
    address = end_of(conn)
    answer = client(cast.alice).post(address, htmx="open")
    assert answer.status_code == 200
    assert 'id="open"' in answer.text
    assert "ending" in extract_text(answer.text)
    assert "is being disconnected" in extract_text(answer.text)
    assert answer.headers["HX-Trigger"] == "changed"


@pytest.mark.parametrize("htmx", [False, "dialog"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_session_that_has_ended_meanwhile(
    client: Client, cast: Cast, conn: db.Connection, method: str, htmx: bool | str
) -> None:
    answer = client(cast.alice).open(f"{SESSIONS}/4711/end", method=method, htmx=htmx)
    assert answer.status_code == 422
    assert "This session has ended already." in extract_text(answer.text)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_may_not_end_a_session(client: Client, cast: Cast, conn: db.Connection, method: str) -> None:
    address = end_of(conn)
    assert client(cast.bob).open(address, method=method).status_code == 403
    assert client(cast.charlie).open(address, method=method).status_code == 404
    mine = address.replace("acme", "globex")
    assert client(cast.charlie).open(mine, method=method).status_code == 422
    assert ending(conn) == []


# --- the mails


def test_the_mails_are_switched_on_and_off(client: Client, cast: Cast, conn: db.Connection) -> None:
    bob = client(cast.bob)
    assert "checked" not in bob.get(SESSIONS).text
    answer = bob.post("/profile/refusal-mails", data={"wanted": "1", "next": SESSIONS}, follow_redirects=True)
    assert answer.request.path == SESSIONS
    assert "Mails about refused binds and messages are on." in extract_text(answer.text)
    assert "checked" in answer.text
    assert "checked" not in client(cast.alice).get(SESSIONS).text
    answer = bob.post("/profile/refusal-mails", data={}, htmx="mails")
    assert "Mails about refused binds and messages are off." in extract_text(answer.text)
    assert "checked" not in bob.get(SESSIONS).text


def test_an_operator_has_no_such_mails(client: Client, cast: Cast) -> None:
    olga = client(cast.olga)
    assert "refusal-mails" not in olga.get(SESSIONS).text
    assert olga.post("/profile/refusal-mails", data={"wanted": "1"}).status_code == 404
