"""Choosing an account, and its home."""

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape

import pytest
from flask import Flask

from portal.core import clock, db
from portal.core.config import Config, SmppSettings, WebSettings
from portal.services.accounts import accounts, credentials
from portal.services.accounts.refused_binds import TOO_MANY_BINDS, WRONG_PASSWORD
from portal.services.common.audit import SHELL, Actor
from portal.services.credits import credits
from tests.support import Cast, Person, record_refused_messages
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
HOME = "/accounts/smpp-acme-1"


# --- choosing


def test_the_customer_s_accounts_are_listed_smpp_ones_first(client: Client, cast: Cast) -> None:
    page = client(cast.alice).get("/").text
    places = [page.index(f'href="/accounts/{name}"') for name in ("smpp-acme-1", "smpp-acme-2", "sms-acme-1")]
    assert places == sorted(places)
    assert "smpp-globex-1" not in page
    page_text = extract_text(page)
    assert "smpp-acme-2 SMPP Waiting for your IPs 100" in page_text
    assert "sms-acme-1 SMS OK 50" in page_text


def test_a_single_account_is_opened_at_once(client: Client, cast: Cast) -> None:
    answer = client(cast.charlie).get("/")
    assert (answer.status_code, answer.location) == (302, "/accounts/smpp-globex-1")


def test_without_an_account_it_says_who_creates_one(client: Client, cast: Cast, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET deleted_at = 1 WHERE customer_id = ?", (cast.acme,))
    assert "No account yet" in client(cast.alice).get("/").text


def test_operators_are_sent_to_their_own_pages(client: Client, cast: Cast) -> None:
    answer = client(cast.olga).get("/")
    assert (answer.status_code, answer.location) == (302, "/admin/")


# --- general information


def test_a_client_finds_all_that_it_needs(client: Client, cast: Cast, config: Config) -> None:
    page = client(cast.alice).get(HOME).text
    for value in ("smpp-acme-1", f"127.0.0.1:{config.smpp.tls_port}", f"127.0.0.1:{config.smpp.port}"):
        assert re.search(rf'<code>{value}</code>\s*<button type="button" class="btn js-only" data-copy>', page)
    page_text = extract_text(page)
    assert "Not encrypted: anyone on the way can read the password and your messages." in page_text
    assert "10 messages at most" in page_text
    assert "20 messages a second" in page_text


def test_no_limit_is_said_in_words(client: Client, cast: Cast, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET windowing = 0, throughput = 0")
    assert extract_text(client(cast.alice).get(HOME).text).count("No limit") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("smpp", "shown", "hidden"),
    [
        (SmppSettings(host="::", port=2775, tls_port=3550), "localhost:3550", "[::]"),
        (SmppSettings(host="0.0.0.0", public_host="smpp.acme.example"), "smpp.acme.example:3550", "0.0.0.0"),
        (SmppSettings(host="::1", tls_port=0), "[::1]:2775", "Secured endpoint"),
        (SmppSettings(host="10.0.0.1", port=0), "10.0.0.1:3550", "Unsecured endpoint"),
        (SmppSettings(), "TLS 1.3", "TLS 1.3 or 1.2"),
        (SmppSettings(tls_minimum="1.2"), "TLS 1.3 or 1.2", "TLS 1.1"),
        (SmppSettings(host="smpp.acme.example"), "smpp.acme.example:3550", "localhost"),
    ],
)
def test_endpoints_are_the_ones_that_lead_there(
    make_app: Callable[[Config], Flask],
    config: Config,
    client: Client,
    cast: Cast,
    smpp: SmppSettings,
    shown: str,
    hidden: str,
) -> None:
    page = extract_text(_page_of(make_app(replace(config, smpp=smpp)), client(cast.alice)))
    assert shown in page
    assert hidden not in page


@pytest.mark.slow
def test_an_endpoint_on_all_addresses_has_the_name_of_the_public_url(
    make_app: Callable[[Config], Flask], config: Config, client: Client, cast: Cast
) -> None:
    web = WebSettings(public_url="http://sms.acme.example:8000/")
    app = make_app(replace(config, web=web, smpp=SmppSettings(host="::")))
    assert "sms.acme.example:3550" in extract_text(_page_of(app, client(cast.alice)))


def _page_of(app: Flask, logged_in: Browser) -> str:
    with logged_in.session_transaction() as session:
        token = session["_user_id"]
    other = app.test_client()
    assert isinstance(other, Browser)
    return other.use_login_session(token).get(HOME).text


def test_a_classic_account_shows_nothing_of_smpp(client: Client, cast: Cast) -> None:
    page = client(cast.alice).get("/accounts/sms-acme-1").text
    page_text = extract_text(page)
    assert "Classic SMS account" in page_text
    assert not [each for each in ("SystemID", "endpoint", "Windowing", "password", "options/smpp") if each in page]


# --- service status


def test_the_status_follows_the_account(client: Client, cast: Cast, conn: db.Connection) -> None:
    alice = client(cast.alice)

    def shown(name: str = "smpp-acme-1") -> str:
        return extract_text(
            alice.get(f"/accounts/{name}").text.split('id="account-status"')[1].split("</span></span>")[0]
        )

    assert "Waiting for your IPs" in shown("smpp-acme-2")
    assert "Updating" in shown()
    acting.confirm_changes(conn)
    assert "OK" in shown()
    accounts.disable_account(conn, SHELL, acting.get_account(conn, "smpp-acme-1"))
    assert "Disabled" in shown()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("waiting", "Possible once an IP is authorised"),
        ("updating", "the server is taking over a change"),
        ("disabled", "Not possible while the account is disabled."),
    ],
)
def test_no_new_password_unless_all_is_well_and_it_says_why(
    client: Client, cast: Cast, conn: db.Connection, state: str, reason: str
) -> None:
    name = "smpp-acme-2" if state == "waiting" else "smpp-acme-1"
    if state == "disabled":
        accounts.disable_account(conn, SHELL, acting.get_account(conn, name))
    page = client(cast.alice).get(f"/accounts/{name}").text
    assert '<button type="button" class="btn" disabled aria-describedby="why-not">' in page
    assert reason in extract_text(page)
    assert f'href="/accounts/{name}/password"' not in page


def test_a_new_password_is_one_click_away_when_all_is_well(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.confirm_changes(conn)
    assert 'href="/accounts/smpp-acme-1/password" data-dialog' in client(cast.alice).get(HOME).text


def test_it_says_who_is_connected(client: Client, cast: Cast, conn: db.Connection) -> None:
    alice = client(cast.alice)
    assert "No client is connected" in extract_text(alice.get(HOME).text)
    acting.open_session(conn, "smpp-acme-1")
    assert "1 session from 198.51.100.20 (TLS 1.3)" in extract_text(alice.get(HOME).text)
    acting.open_session(conn, "smpp-acme-1", 2, address="2001:db8::7", tls="")
    page_text = extract_text(alice.get(HOME).text)
    assert "2 sessions from 2 addresses" in page_text
    assert "Sessions · 2" in page_text


def test_it_says_who_changed_the_password_and_how_long_the_old_one_lives(
    client: Client, cast: Cast, conn: db.Connection, keys: object
) -> None:
    alice = client(cast.alice)
    assert "by the operator" in extract_text(alice.get(HOME).text)
    acting.open_session(conn, "smpp-acme-1")
    marta = Actor("marta@acme.example")
    account = acting.get_account(conn, "smpp-acme-1")
    credentials.regenerate_smpp_password(conn, keys, marta, account, grace_ms=3_600_000, send_mail=False)  # type: ignore[arg-type]
    page_text = extract_text(alice.get(HOME).text)
    assert "by marta@acme.example" in page_text
    assert "The old one stays good until" in page_text
    assert "1 of them still uses the old password." in page_text


# --- statistics


def test_statistics_by_period(client: Client, cast: Cast, conn: db.Connection) -> None:
    ids = acting.send_texts(conn, "smpp-acme-1", "one", "two", "three", "four")
    acting.deliver_messages(conn, *ids[:3])
    acting.fail_messages(conn, ids[3])
    conn.execute("UPDATE daily_totals SET day = day - 20")
    alice = client(cast.alice)

    def shown(period: str) -> str:
        return extract_text(alice.get(f"{HOME}?period={period}").text.split('class="stats"')[1].split("</dl>")[0])

    assert shown("30d").startswith("> sent 4 delivered · 75 % 3 failed 1 stopped 0 credits left 996")
    assert shown("all").startswith("> sent 4 ")
    assert shown("7d").startswith("> sent 0 delivered 0 ")
    assert shown("today").startswith("> sent 0 delivered 0 ")
    assert shown("nonsense") == shown("30d")


def test_another_period_comes_as_the_part_alone(client: Client, cast: Cast) -> None:
    answer = client(cast.alice).get(f"{HOME}?period=7d", htmx="statistics")
    assert answer.text.lstrip().startswith("<section")
    assert 'href="?period=7d" aria-current="true"' in answer.text


def test_the_chart_has_its_table(client: Client, cast: Cast, conn: db.Connection) -> None:
    alice = client(cast.alice)
    assert "Nothing was sent in the last 30 days." in extract_text(alice.get(HOME).text)
    acting.send_texts(conn, "smpp-acme-1", "one")
    page = alice.get(HOME).text
    assert '<svg viewBox="0 0 300 120"' in page
    assert page.split("<tbody>")[-1].count("<tr>") == 30


def test_what_credits_did_not_cover_is_counted(client: Client, cast: Cast, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET balance = 0")
    acting.send_texts(conn, "smpp-acme-1", "one")
    assert "not sent: no credits 1" in extract_text(client(cast.alice).get(HOME).text)


def test_what_was_refused_stands_under_what_was_accepted(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.send_texts(conn, "smpp-acme-1", "one")
    alice = client(cast.alice)
    assert "not counted here" not in alice.get(f"{HOME}?period=all").text
    account_id, now = acting.get_account(conn, "smpp-acme-1").id, clock.now_ms()
    record_refused_messages(conn, account_id, {("sender", "NOTMINE"): 1})
    acting.refuse_binds(conn, "smpp-acme-1", "203.0.113.7", times=7)
    today = alice.get(f"{HOME}?period=today", htmx="statistics").text
    assert "credits left 999 1 message was refused and is not counted here." in extract_text(today)
    record_refused_messages(conn, account_id, {("throughput", "20"): 1_180}, now - 10 * clock.DAY_MS)
    record_refused_messages(conn, account_id, {("length", ""): 10_000}, now - 32 * clock.DAY_MS)
    page = alice.get(f"{HOME}?period=30d").text
    assert "1,181 messages were refused and are not counted here." in extract_text(page)
    assert "Only those of the last" not in page
    whole = alice.get(f"{HOME}?period=all").text
    assert "1,181 messages were refused and are not counted here. Only those of the last 31 days are known." in (
        extract_text(whole)
    )
    for shown in (today, page, whole):
        link = re.search(rf'href="({HOME}/refused\?kind=message[^"]+)"', shown)
        assert link
        listed = extract_text(alice.get(unescape(link[1])).text)
        assert "The sender NOTMINE isn't approved." in listed
        assert ("The throughput of 20 messages a second was reached." in listed) is (shown is not today)
        assert "203.0.113.7" not in listed


# --- what was refused


BANNER = "Refused in the last 24 hours"


def read_banner(page: str) -> str:
    """The part of a home that tells what was refused."""
    found = re.search(r'<div id="refused"(.*?</ul>.*?</a>)', page, re.DOTALL)
    assert found
    return found[1]


def test_a_refused_address_comes_with_its_remedy(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.refuse_binds(conn, "smpp-acme-1", "203.0.113.7", times=12)
    alice = client(cast.alice)
    page = alice.get(HOME).text
    assert f"{BANNER} 203.0.113.7 : It is not an authorised IP. 12 times, last " in extract_text(page)
    assert 'form="authorise" name="network" value="203.0.113.7"' in page
    alice.post(f"{HOME}/ips", data={"network": "203.0.113.7"})
    assert BANNER not in alice.get(HOME).text


def test_a_wrong_password_and_too_many_sessions_are_told(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.refuse_binds(conn, "smpp-acme-1", "127.0.0.1", WRONG_PASSWORD)
    acting.refuse_binds(conn, "smpp-acme-1", "127.0.0.2", TOO_MANY_BINDS, times=2)
    conn.execute("UPDATE accounts SET binds = 1")
    acting.open_session(conn, "smpp-acme-1")
    banner = read_banner(client(cast.alice).get(HOME).text)
    text = extract_text(banner)
    assert "127.0.0.1 : The password was wrong." in text
    assert f'href="{HOME}/password" data-dialog' in banner
    assert "127.0.0.2 : As many sessions as the account may have were open already. 2 times, last" in text
    assert f'href="{HOME}/sessions"' in banner
    assert f'href="{HOME}/ask/binds' in banner


def test_the_three_weightiest_are_named_and_the_others_counted(client: Client, cast: Cast, conn: db.Connection) -> None:
    acme_1, acme_2 = (acting.get_account(conn, name).id for name in ("smpp-acme-1", "smpp-acme-2"))
    record_refused_messages(conn, acme_2, {("sender", "OTHERS"): 99})
    record_refused_messages(conn, acme_1, {("sender", "LONGAGO"): 99}, clock.now_ms() - 26 * clock.HOUR_MS)
    refused = {("sender", "NOTMINE"): 7, ("length", ""): 1, ("throughput", "20"): 1_180}
    record_refused_messages(conn, acme_1, refused)
    alice = client(cast.alice)
    banner = read_banner(alice.get(HOME).text)
    assert [extract_text(each).partition(" time")[0] for each in re.findall("<li>(.*?)</li>", banner, re.DOTALL)] == [
        "The throughput of 20 messages a second was reached. 1,180",
        "The sender NOTMINE isn't approved. 7",
        "The text is too long. 1",
    ]
    assert "All that was refused" in banner.rpartition(f'<a href="{HOME}/refused">')[2]
    assert f'href="{HOME}/senders?sender=NOTMINE"' in banner
    assert f'href="{HOME}/ask/throughput" data-dialog' in banner
    record_refused_messages(conn, acme_1, {("coding", "4"): 3, ("window", "10"): 2})
    banner = read_banner(alice.get(HOME).text)
    assert banner.count("<li>") == 3
    assert "The text is too long." not in banner
    assert "2 more reasons, and all that was refused" in banner.rpartition(f'<a href="{HOME}/refused">')[2]


def test_it_appears_on_an_open_page_and_says_it_in_italian(client: Client, cast: Cast, conn: db.Connection) -> None:
    alice = client(cast.alice)
    alice.post("/language", data={"locale": "it", "next": "/"})
    seen = alice.get(HOME).text.partition("seen=")[2].partition('"')[0].partition("&")[0]
    poll = f"{HOME}/live?page=home&seen={seen}"
    assert alice.get(poll, htmx=True).status_code == 204
    record_refused_messages(conn, acting.get_account(conn, "smpp-acme-1").id, {("sender", "NOTMINE"): 1})
    text = extract_text(read_banner(alice.get(poll, htmx=True).text))
    assert text.partition(" 1 volta, ")[0].endswith(
        "Rifiutati nelle ultime 24 ore Il mittente NOTMINE non è approvato."
    )


# --- who sees what


def test_a_viewer_sees_no_button_that_would_refuse_them(client: Client, cast: Cast, conn: db.Connection) -> None:
    acting.confirm_changes(conn)
    acting.refuse_binds(conn, "smpp-acme-1", "203.0.113.7")
    page = client(cast.bob).get(HOME).text
    assert "203.0.113.7 : It is not an authorised IP. 1 time, " in extract_text(page)
    assert not [each for each in ("Generate a new", "Add a sender", "Transfer credits", '"authorise"') if each in page]
    record_refused_messages(
        conn, acting.get_account(conn, "smpp-acme-1").id, {("sender", "NOTMINE"): 1, ("coding", "4"): 1}
    )
    banner = read_banner(client(cast.bob).get(HOME).text)
    assert "The sender NOTMINE isn't approved." in extract_text(banner)
    assert re.findall("<(?:a|button).*?>", banner) == [f'<a href="{HOME}/refused">']


def test_operators_see_every_account(client: Client, cast: Cast) -> None:
    assert "smpp-acme-1" in client(cast.olga).get(HOME).text


def test_another_customer_s_account_is_not_found(client: Client, cast: Cast) -> None:
    assert client(cast.charlie).get(HOME).status_code == 404


def test_a_description_is_text(client: Client, cast: Cast, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET description = ?", (acting.SCRIPT_INJECTION,))
    for page in (HOME, "/"):
        assert acting.SCRIPT_INJECTION not in client(cast.alice).get(page).text


# --- what is kept between pages


@pytest.mark.slow
def test_nothing_of_another_login_is_shown_from_what_was_drawn_before(
    client: Client, cast: Cast, conn: db.Connection
) -> None:
    acting.confirm_changes(conn)
    acting.age_smpp_passwords(conn)
    owner, viewer = client(cast.alice), client(cast.bob)
    token = re.compile(r"[\w-]+\.[\w-]{6}\.[\w-]{27}")  # says when it was made
    pages = [token.sub("", each.get(HOME).text) for each in (owner, viewer, owner, viewer)]
    assert "Generate a new password" in pages[0]
    assert "Generate a new password" not in pages[1]
    assert pages[0] == pages[2]
    assert pages[1] == pages[3]
    assert "alice@acme.example" not in pages[1]


def test_two_logins_of_one_person_have_tokens_of_their_own(client: Client, cast: Cast) -> None:
    first, second = client(cast.alice), client(cast.alice)
    for each in (first, second, first, second):
        assert each.csrf_token().split(".")[0] in each.get(HOME).text
    assert first.csrf_token() != second.csrf_token()


def test_a_change_shows_at_once(client: Client, cast: Cast, conn: db.Connection) -> None:
    alice = client(cast.alice)
    assert "1,000</b> credits" in alice.get(HOME).text
    credits.grant_credits(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), 234_500)
    assert "1,234.5</b> credits" in alice.get(HOME).text
    italian = alice.get(HOME, headers={"Accept-Language": "it"}).text
    assert "1.234,5</b>" in italian
