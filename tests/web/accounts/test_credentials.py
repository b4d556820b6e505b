"""Generating a new SMPP password: asked first, shown once, mailed."""

import json
import re
from collections.abc import Callable

import pytest

from portal.core import clock, db
from portal.core.crypto import Keys
from portal.services.accounts import accounts, credentials
from portal.services.common.audit import SHELL
from portal.services.messages import smpp_config
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
HOME = "/accounts/smpp-acme-1"
PASSWORD = f"{HOME}/password"
SHOWN = re.compile(r"<code>([0-9A-Za-z]{8})</code>")


@pytest.fixture
def alice(client: Client, cast: Cast, conn: db.Connection) -> Browser:
    acting.confirm_changes(conn)
    return client(cast.alice)


def good(conn: db.Connection, keys: Keys) -> set[bytes]:
    """The digests of the passwords that are good, now or in their grace period."""
    (config,) = (each for each in smpp_config.load_account_configs(conn) if each.name == "smpp-acme-1")
    return {each.digest for each in config.passwords if each.is_valid(clock.now_ms())}


def mails(conn: db.Connection, keys: Keys) -> list[tuple[str, str]]:
    """To whom, and the password in it."""
    rows = conn.execute("SELECT recipient, content FROM mails").fetchall()
    return [(row["recipient"], json.loads(keys.decrypt_column(row["content"]))["context"]["password"]) for row in rows]


# --- asking


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_the_question_says_what_happens_and_where_the_new_one_goes(
    alice: Browser, conn: db.Connection, keys: Keys, htmx: bool | str
) -> None:
    before = good(conn, keys)
    answer = alice.get(PASSWORD, htmx=htmx)
    page_text = extract_text(answer.text)
    assert "The password of smpp-acme-1 is about to change." in page_text
    # Enough for its owner to recognise, too little for anyone else to learn.
    assert "m•••a@acme.example" in page_text
    assert "marta@" not in answer.text
    assert answer.text.index(">Exit</a>") < answer.text.index(">Send</button>")
    assert f'href="{HOME}" data-close' in answer.text
    assert answer.text.lstrip().startswith("<!doctype") is (not htmx)
    # Leaving changes nothing.
    alice.get(HOME)
    assert good(conn, keys) == before


def test_the_grace_periods_are_offered_and_none_is_the_first(alice: Browser) -> None:
    page = alice.get(PASSWORD).text
    values = re.findall(r'<input( checked)?[^>]* name="grace" type="radio" value="(\w+)"', page)
    assert values == [(" checked", "0"), ("", "15m"), ("", "1h"), ("", "24h")]


# --- generating


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_it_is_shown_once_and_mailed(
    alice: Browser, conn: db.Connection, cast: Cast, keys: Keys, htmx: bool | str
) -> None:
    form = {"grace": "0", "form": get_field_value(alice.get(PASSWORD).text, "form")}
    answer = alice.post(PASSWORD, data=form, htmx=htmx)
    assert answer.status_code == 200
    shown = SHOWN.search(answer.text)
    assert shown
    assert good(conn, keys) == {keys.digest_smpp_password(shown[1])}
    assert mails(conn, keys) == [("marta@acme.example", shown[1])]
    assert answer.headers["Cache-Control"] == "no-store"
    assert shown[1] not in str(answer.headers)
    assert answer.text.lstrip().startswith("<!doctype") is (not htmx)
    for again in (HOME, PASSWORD, f"{HOME}/options/smpp"):
        assert shown[1] not in alice.get(again).text


def test_htmx_is_told_to_look_at_the_rest_of_the_page(alice: Browser) -> None:
    assert alice.post(PASSWORD, data={"grace": "0"}, htmx="dialog").headers["HX-Trigger"] == "changed"


@pytest.mark.parametrize(("grace", "sentence"), [("15m", "15 minutes"), ("1h", "1 hour"), ("24h", "24 hours")])
def test_the_old_one_stays_good_for_a_while(
    alice: Browser, conn: db.Connection, cast: Cast, keys: Keys, grace: str, sentence: str
) -> None:
    answer = alice.post(PASSWORD, data={"grace": grace})
    assert f"The old one stays good for {sentence}." in extract_text(answer.text)
    assert keys.digest_smpp_password(cast.smpp_acme_1.password) in good(conn, keys)
    info = credentials.find_smpp_password_info(conn, cast.smpp_acme_1.id)
    assert info is not None
    assert info.old_until is not None
    assert (
        credentials.GRACE_PERIODS[grace] - 60_000 < info.old_until - clock.now_ms() <= credentials.GRACE_PERIODS[grace]
    )
    assert info.changed_by == cast.alice.email


def test_without_grace_the_old_one_stops_at_once(alice: Browser, conn: db.Connection, cast: Cast, keys: Keys) -> None:
    answer = alice.post(PASSWORD, data={"grace": "0"})
    assert "The old one has stopped" in extract_text(answer.text)
    assert keys.digest_smpp_password(cast.smpp_acme_1.password) not in good(conn, keys)


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_sent_again_by_a_reload_it_makes_no_second_one(
    alice: Browser, conn: db.Connection, keys: Keys, htmx: bool | str
) -> None:
    form = {"grace": "24h", "form": get_field_value(alice.get(PASSWORD).text, "form")}
    alice.post(PASSWORD, data=form)
    before = good(conn, keys)
    acting.confirm_changes(conn)
    again = alice.post(PASSWORD, data=form, htmx=htmx)
    assert again.status_code == 422
    assert not SHOWN.search(again.text)
    assert "It was not done a second time." in extract_text(again.text)
    assert good(conn, keys) == before
    assert len(mails(conn, keys)) == 1
    # The question is asked anew, with what was chosen, and can be answered.
    assert 'checked id="grace-3" name="grace" type="radio" value="24h"' in again.text
    fresh = get_field_value(again.text, "form")
    assert fresh != form["form"]
    assert SHOWN.search(alice.post(PASSWORD, data={"grace": "0", "form": fresh}).text)


@pytest.mark.parametrize("htmx", [False, "dialog"])
@pytest.mark.parametrize("state", ["updating", "waiting", "disabled"])
def test_it_is_refused_unless_the_status_is_ok(
    client: Client, cast: Cast, conn: db.Connection, keys: Keys, state: str, htmx: bool | str
) -> None:
    account = acting.get_account(conn, "smpp-acme-2" if state == "waiting" else "smpp-acme-1")
    if state == "disabled":
        accounts.disable_account(conn, SHELL, account)
    alice = client(cast.alice)
    before = good(conn, keys)
    answer = alice.post(f"/accounts/{account.name}/password", data={"grace": "0"}, htmx=htmx)
    assert answer.status_code == 422
    assert f"A new password can be generated once the status of {account.name} is OK." in extract_text(answer.text)
    assert not SHOWN.search(answer.text)
    assert ">Send</button>" not in alice.get(f"/accounts/{account.name}/password", htmx=htmx).text
    assert good(conn, keys) == before
    assert mails(conn, keys) == []


def test_a_grace_period_that_is_not_offered(alice: Browser, conn: db.Connection, keys: Keys) -> None:
    before = good(conn, keys)
    answer = alice.post(PASSWORD, data={"grace": "1y"})
    assert answer.status_code == 422
    assert "The old password can stay good for 15 minutes, 1 hour or 24 hours, or not at all." in extract_text(
        answer.text
    )
    assert good(conn, keys) == before


def test_a_classic_account_has_no_password(alice: Browser) -> None:
    answer = alice.post("/accounts/sms-acme-1/password", data={"grace": "0"})
    assert answer.status_code == 422
    assert "sms-acme-1 is a classic account: it has no SMPP password." in extract_text(answer.text)


# --- who may


def test_a_viewer_generates_none(client: Client, cast: Cast, conn: db.Connection, keys: Keys, alice: Browser) -> None:
    before = good(conn, keys)
    bob = client(cast.bob)
    assert bob.get(PASSWORD).status_code == 403
    assert bob.post(PASSWORD, data={"grace": "0"}).status_code == 403
    assert good(conn, keys) == before


def test_another_customer_finds_nothing(client: Client, cast: Cast, conn: db.Connection, keys: Keys) -> None:
    before = good(conn, keys)
    charlie = client(cast.charlie)
    assert charlie.get(PASSWORD).status_code == 404
    assert charlie.post(PASSWORD, data={"grace": "0"}).status_code == 404
    assert good(conn, keys) == before


def test_without_the_form_s_token_nothing_happens(alice: Browser, conn: db.Connection, keys: Keys) -> None:
    before = good(conn, keys)
    assert alice.post(PASSWORD, data={"grace": "0"}, csrf=False).status_code == 400
    assert good(conn, keys) == before
