"""Options › SMPP settings: the addresses from which clients may bind."""

from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from portal.core import clock, db
from portal.services.accounts import allowed_ips
from portal.services.common.audit import SHELL
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
# Has none yet.
EMPTY = "/accounts/smpp-acme-2"
# Has 127.0.0.1 and ::1.
HOME = "/accounts/smpp-acme-1"
HOUR_MS = 3_600_000


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture
def bob(client: Client, cast: Cast) -> Browser:
    return client(cast.bob)


def listed(conn: db.Connection, name: str = "smpp-acme-2") -> list[str]:
    return [each.network for each in allowed_ips.list_allowed_ips(conn, acting.get_account(conn, name).id)]


# --- looking


def test_the_page_shows_the_list_the_general_information_and_the_status(alice: Browser) -> None:
    page_text = extract_text(alice.get(f"{HOME}/options/smpp").text)
    for each in (
        "Authorised IPs 2/10",
        "127.0.0.1",
        "::1",
        "General information",
        "Service status",
        "Add an IP (2/10)",
    ):
        assert each in page_text


def test_an_empty_list_says_what_that_means_and_offers_this_computer(alice: Browser) -> None:
    page = alice.get(f"{EMPTY}/options/smpp").text
    assert "No IP is authorised yet, so nothing can connect" in page
    assert "Add 127.0.0.1 (this computer)" in extract_text(page)


def test_this_computer_is_offered_only_where_it_is_missing(alice: Browser, bob: Browser) -> None:
    assert "this computer" not in alice.get(f"{HOME}/options/smpp").text
    assert "this computer" not in bob.get(f"{EMPTY}/options/smpp").text
    elsewhere = alice.get(f"{HOME}/options/smpp", environ_base={"REMOTE_ADDR": "203.0.113.9"})
    assert "Add 203.0.113.9 (this computer)" in extract_text(elsewhere.text)


def test_the_address_of_the_list_shows_the_same_page(alice: Browser) -> None:
    assert "Authorised IPs" in alice.get(f"{HOME}/ips").text
    assert alice.get(f"{HOME}/ips", htmx=True).text.lstrip().startswith('<section class="tile wide" id="ips"')


def test_a_viewer_sees_the_list_and_no_way_to_change_it(bob: Browser) -> None:
    page = bob.get(f"{HOME}/options/smpp").text
    assert "127.0.0.1" in page
    assert "Add an IP" not in page
    assert "/delete" not in page


def test_a_classic_account_has_no_such_page(alice: Browser) -> None:
    assert alice.get("/accounts/sms-acme-1/options/smpp").status_code == 404
    assert alice.get("/accounts/sms-acme-1/ips").status_code == 404
    assert alice.post("/accounts/sms-acme-1/ips", data={"network": "203.0.113.7"}).status_code == 404


# --- adding


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("203.0.113.7", "203.0.113.7"),
        (" 2001:DB8:0::7 ", "2001:db8::7"),
        ("203.0.113.0/28", "203.0.113.0/28"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
    ],
)
def test_adding_by_a_plain_form(alice: Browser, conn: db.Connection, typed: str, stored: str) -> None:
    answer = alice.post(f"{EMPTY}/ips", data={"network": typed, "label": " Data  centre "})
    assert (answer.status_code, answer.location) == (303, f"{EMPTY}/options/smpp")
    page = extract_text(alice.get(answer.location).text)
    assert f"{stored} was added." in page
    assert f"{stored} Data centre Never" in page
    assert listed(conn) == [stored]


def test_adding_with_htmx_answers_with_the_tile_a_toast_and_the_new_status(alice: Browser, conn: db.Connection) -> None:
    answer = alice.post(f"{EMPTY}/ips", data={"network": "203.0.113.7", "label": "x"}, htmx="ips")
    page_text = extract_text(answer.text)
    assert answer.status_code == 200
    assert "Authorised IPs 1/10" in page_text
    assert "203.0.113.7 was added." in page_text
    assert 'id="account-status" hx-swap-oob="true"' in answer.text
    assert "The status is now: Updating" in page_text
    assert get_field_value(answer.text, "network") == ""
    # So that the page's other parts look at once.
    assert answer.headers["HX-Trigger"] == "changed"


def test_one_click_adds_from_wherever_its_button_stands(alice: Browser, conn: db.Connection) -> None:
    answer = alice.post(f"{EMPTY}/ips", data={"network": "203.0.113.7"}, htmx="authorise")
    assert "203.0.113.7 was added." in answer.text
    assert "<section" not in answer.text
    refused = alice.post(f"{EMPTY}/ips", data={"network": "203.0.113.7"}, htmx="authorise")
    assert refused.status_code == 422
    assert "203.0.113.7 is already in the list." in extract_text(refused.text)
    assert listed(conn) == ["203.0.113.7"]


REFUSED = [
    ("300.1.1.1", "“300.1.1.1” isn't an IP address or range. Examples: 203.0.113.7"),
    ("", "“” isn't an IP address or range."),
    (acting.SCRIPT_INJECTION, "isn't an IP address or range."),
    ("fe80::1%eth0", "isn't an IP address or range."),
    ("203.0.113.7/24", "Did you mean 203.0.113.7, or the range 203.0.113.0/24?"),
    ("0.0.0.0", "No client can come from 0.0.0.0"),
    ("224.0.0.1", "No client can come from 224.0.0.1"),
    ("0.0.0.0/0", "would let a large part of the internet in."),
    ("::/0", "would let a large part of the internet in."),
    ("127.0.0.1", "127.0.0.1 is already in the list."),
    ("198.51.100.9", "198.51.100.9 is already covered by 198.51.100.0/24."),
]


@pytest.mark.parametrize(("typed", "sentence"), REFUSED)
@pytest.mark.parametrize("htmx", [False, "ips"])
def test_a_refusal_says_why_at_the_field_and_keeps_what_was_typed(
    alice: Browser, conn: db.Connection, typed: str, sentence: str, htmx: bool | str
) -> None:
    allowed_ips.add_allowed_ip(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "198.51.100.0/24")
    before = listed(conn, "smpp-acme-1")
    form = {"network": typed, "label": "kept too", "expires": "7d"}
    answer = alice.post(f"{HOME}/ips", data=form, htmx=htmx)
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert 'aria-describedby="network-error network-hint"' in answer.text
    assert get_field_value(answer.text, "network") == typed
    assert get_field_value(answer.text, "label") == "kept too"
    assert '<option selected value="7d">' in answer.text
    assert acting.SCRIPT_INJECTION not in answer.text
    assert listed(conn, "smpp-acme-1") == before


def test_a_label_can_be_too_long(alice: Browser) -> None:
    answer = alice.post(f"{EMPTY}/ips", data={"network": "203.0.113.7", "label": "x" * 61})
    assert answer.status_code == 422
    assert "A label has at most 60 characters." in extract_text(answer.text)
    assert get_field_value(answer.text, "network") == "203.0.113.7"


def test_at_ten_the_button_is_disabled_and_the_eleventh_refused(alice: Browser, conn: db.Connection) -> None:
    acting.add_allowed_ips(conn, "smpp-acme-2", 10)
    page = alice.get(f"{EMPTY}/options/smpp").text
    assert 'id="add-ip" disabled aria-describedby="ips-full"' in page
    assert "Add an IP (10/10)" in extract_text(page)
    assert "this computer" not in page
    answer = alice.post(f"{EMPTY}/ips", data={"network": "203.0.113.7"})
    assert answer.status_code == 422
    assert "All 10 addresses are in use." in extract_text(answer.text)


@pytest.mark.parametrize(("choice", "hours"), [("8h", 8), ("1d", 24), ("7d", 7 * 24), ("30d", 30 * 24)])
def test_an_address_for_a_while(alice: Browser, conn: db.Connection, choice: str, hours: int) -> None:
    alice.post(f"{EMPTY}/ips", data={"network": "203.0.113.7", "expires": choice})
    left = expiry(conn) - clock.now_ms()
    assert hours * HOUR_MS - 60_000 < left <= hours * HOUR_MS


def expiry(conn: db.Connection) -> int:
    (entry,) = allowed_ips.list_allowed_ips(conn, acting.get_account(conn, "smpp-acme-2").id)
    assert entry.expires_at is not None
    return entry.expires_at


def test_until_tonight_is_the_end_of_the_day_there(alice: Browser, conn: db.Connection) -> None:
    alice.post(f"{EMPTY}/ips", data={"network": "203.0.113.7", "expires": "tonight"})
    ends = datetime.fromtimestamp(expiry(conn) / 1000, ZoneInfo("UTC"))
    assert (ends.hour, ends.minute, ends.second) == (0, 0, 0)
    assert 0 < expiry(conn) - clock.now_ms() <= 24 * HOUR_MS


@pytest.mark.parametrize("form", [{"expires": "date", "until": "{}"}, {"expires": "{}"}])
def test_until_a_date(alice: Browser, conn: db.Connection, form: dict[str, str]) -> None:
    moment = (datetime.now(ZoneInfo("UTC")) + timedelta(days=3)).replace(second=0, microsecond=0)
    typed = {name: value.format(moment.strftime("%Y-%m-%dT%H:%M")) for name, value in form.items()}
    alice.post(f"{EMPTY}/ips", data={"network": "203.0.113.7"} | typed)
    assert expiry(conn) == moment.timestamp() * 1000
    assert "in 3 days" in extract_text(alice.get(f"{EMPTY}/options/smpp").text)


@pytest.mark.parametrize(
    ("until", "sentence"),
    [("2020-01-01T10:00", "The end must lie in the future."), ("soon", "“soon” isn't a date and time.")],
)
def test_an_end_that_makes_no_sense(alice: Browser, until: str, sentence: str) -> None:
    answer = alice.post(f"{EMPTY}/ips", data={"network": "203.0.113.7", "expires": "date", "until": until})
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert get_field_value(answer.text, "until") == until
    assert get_field_value(answer.text, "network") == "203.0.113.7"


def test_a_label_is_text(alice: Browser) -> None:
    alice.post(f"{EMPTY}/ips", data={"network": "203.0.113.7", "label": acting.SCRIPT_INJECTION})
    page = alice.get(f"{EMPTY}/options/smpp").text
    assert acting.SCRIPT_INJECTION not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


# --- removing


@pytest.fixture
def entry(conn: db.Connection) -> allowed_ips.AllowedIP:
    """An address of the account that has no other."""
    ends = clock.now_ms() + HOUR_MS
    account = acting.get_account(conn, "smpp-acme-2")
    return allowed_ips.add_allowed_ip(conn, SHELL, account, "203.0.113.7", label="Laptop", expires_at=ends)


def test_removing_asks_first(alice: Browser, conn: db.Connection, entry: allowed_ips.AllowedIP) -> None:
    acting.open_session(conn, "smpp-acme-2", address="203.0.113.7")
    for htmx in (False, "dialog"):
        answer = alice.get(f"{EMPTY}/ips/{entry.id}/delete", htmx=htmx)
        page_text = extract_text(answer.text)
        assert "Clients can no longer connect from 203.0.113.7 (Laptop)" in page_text
        assert "1 session from there is closed at once." in page_text
        # A page of its own has nothing that htmx would replace.
        assert (f'hx-delete="{EMPTY}/ips/{entry.id}"' in answer.text) is bool(htmx)
        # The safe way out comes first, and the other button says what it does.
        assert page_text.index("Exit") < page_text.rindex("Delete 203.0.113.7")
        assert answer.text.lstrip().startswith("<!doctype") is (not htmx)
    assert listed(conn) == ["203.0.113.7"]


def test_removing_by_a_plain_form(alice: Browser, conn: db.Connection, entry: allowed_ips.AllowedIP) -> None:
    answer = alice.post(f"{EMPTY}/ips/{entry.id}/delete")
    assert (answer.status_code, answer.location) == (303, f"{EMPTY}/options/smpp")
    page = alice.get(answer.location).text
    assert "203.0.113.7 was removed." in extract_text(page)
    assert f'action="{EMPTY}/ips/restore?' in page
    assert listed(conn) == []


def test_removing_with_htmx_answers_with_the_list_and_leaves_the_form_alone(
    alice: Browser, conn: db.Connection, entry: allowed_ips.AllowedIP
) -> None:
    answer = alice.delete(f"{EMPTY}/ips/{entry.id}", htmx="ips-list")
    assert answer.status_code == 200
    assert answer.text.lstrip().startswith('<div id="ips-list"')
    assert 'name="label"' not in answer.text
    page_text = extract_text(answer.text)
    for each in ("203.0.113.7 was removed.", "Undo", "0/10", "Add an IP (0/10)", "Waiting for your IPs"):
        assert each in page_text
    assert listed(conn) == []


@pytest.mark.parametrize("htmx", [False, True])
def test_undo_puts_it_back_as_it_was(
    alice: Browser, conn: db.Connection, entry: allowed_ips.AllowedIP, htmx: bool
) -> None:
    page = alice.delete(f"{EMPTY}/ips/{entry.id}", htmx=True).text
    undo = page.split('hx-post="')[1].split('"')[0].replace("&amp;", "&")
    answer = alice.post(undo, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    (back,) = allowed_ips.list_allowed_ips(conn, acting.get_account(conn, "smpp-acme-2").id)
    assert (back.network, back.label, back.expires_at) == (entry.network, entry.label, entry.expires_at)
    again = alice.post(undo, htmx=True)
    assert "203.0.113.7 is already in the list." in extract_text(again.text)


def test_what_is_gone_is_not_found(alice: Browser, entry: allowed_ips.AllowedIP) -> None:
    alice.delete(f"{EMPTY}/ips/{entry.id}", htmx=True)
    assert alice.delete(f"{EMPTY}/ips/{entry.id}", htmx=True).status_code == 404
    assert alice.get(f"{EMPTY}/ips/{entry.id}/delete").status_code == 404


def test_an_address_is_removed_under_its_own_account_only(
    alice: Browser, conn: db.Connection, entry: allowed_ips.AllowedIP
) -> None:
    assert alice.delete(f"{HOME}/ips/{entry.id}").status_code == 404
    assert listed(conn) == ["203.0.113.7"]


# --- who may


def test_a_viewer_changes_nothing(bob: Browser, conn: db.Connection, entry: allowed_ips.AllowedIP) -> None:
    assert bob.post(f"{EMPTY}/ips", data={"network": "203.0.113.9"}).status_code == 403
    assert bob.delete(f"{EMPTY}/ips/{entry.id}").status_code == 403
    assert bob.post(f"{EMPTY}/ips/{entry.id}/delete").status_code == 403
    assert bob.post(f"{EMPTY}/ips/restore?network=203.0.113.9").status_code == 403
    assert listed(conn) == ["203.0.113.7"]


def test_another_customer_finds_nothing(
    client: Client, cast: Cast, conn: db.Connection, entry: allowed_ips.AllowedIP
) -> None:
    charlie = client(cast.charlie)
    assert charlie.get(f"{EMPTY}/options/smpp").status_code == 404
    assert charlie.post(f"{EMPTY}/ips", data={"network": "203.0.113.9"}).status_code == 404
    assert charlie.delete(f"{EMPTY}/ips/{entry.id}").status_code == 404
    # Not under their own account either.
    assert charlie.delete(f"/accounts/smpp-globex-1/ips/{entry.id}").status_code == 404
    assert listed(conn) == ["203.0.113.7"]
