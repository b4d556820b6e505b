"""The operator's page of an account: adding one, its state, its limits."""

import re
from collections.abc import Callable

import pytest

from portal.core import clock, db
from portal.core.crypto import Keys
from portal.services.accounts import accounts, session_records
from portal.services.accounts.accounts import Account
from portal.services.messages import smpp_config
from tests.support import Cast
from tests.web.conftest import Browser


@pytest.fixture
def account(conn: db.Connection, cast: Cast) -> Callable[[], Account]:
    """Reads Acme's first account as it is now."""
    return lambda: accounts.get_account(conn, cast.smpp_acme_1.name)


def test_an_account_is_added_and_its_password_shown_once(
    olga: Browser, cast: Cast, conn: db.Connection, keys: Keys
) -> None:
    data = {"account-kind": "smpp", "account-name": "smpp-acme-9", "account-description": "Alarms"}
    answer = olga.post(f"/admin/customers/{cast.acme}/accounts", data=data)
    assert answer.status_code == 200
    assert "<code>smpp-acme-9</code>" in answer.text
    password = re.search(r"<code>(\w{8})</code>", answer.text)
    assert password
    digest = conn.execute(
        "SELECT digest FROM smpp_passwords JOIN accounts ON accounts.id = account_id WHERE name = 'smpp-acme-9'"
    ).fetchone()[0]
    assert digest == keys.digest_smpp_password(password[1])
    assert password[1] not in olga.get("/admin/accounts/smpp-acme-9").text


def test_a_classic_account_has_no_password(olga: Browser, cast: Cast, conn: db.Connection) -> None:
    data = {"account-kind": "sms", "account-name": "", "account-description": ""}
    answer = olga.post(f"/admin/customers/{cast.acme}/accounts", data=data)
    assert answer.status_code == 303
    assert re.fullmatch(r"/admin/accounts/sms-\w{6}-1", answer.location)
    assert olga.get(answer.location).status_code == 200


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("smpp", "smpp-acme-1", "There is already an account “smpp-acme-1”."),
        ("smpp", "acme", "“acme” can&#39;t be an account&#39;s name"),
        ("sms", "smpp-acme-9", "it begins with sms-"),
        ("smpp", "smpp-far-too-long-1", "at most 15 characters"),
    ],
)
def test_a_refused_account_keeps_what_was_typed(olga: Browser, cast: Cast, kind: str, name: str, sentence: str) -> None:
    data = {"account-kind": kind, "account-name": name, "account-description": "Alarms"}
    answer = olga.post(f"/admin/customers/{cast.acme}/accounts", data=data)
    assert answer.status_code == 422
    assert sentence in answer.text
    assert f'value="{name}"' in answer.text
    assert 'value="Alarms"' in answer.text


def test_an_account_is_disabled_after_a_question_and_enabled_again(
    olga: Browser, conn: db.Connection, account: Callable[[], Account]
) -> None:
    assert "Disable this account?" in olga.get("/admin/accounts/smpp-acme-1/disable").text
    assert not account().disabled
    assert olga.post("/admin/accounts/smpp-acme-1/disable").location == "/admin/accounts/smpp-acme-1"
    assert account().disabled
    assert "smpp-acme-1 was disabled." in olga.get("/admin/accounts/smpp-acme-1").text
    olga.post("/admin/accounts/smpp-acme-1/enable")
    assert not account().disabled


def test_the_question_counts_the_sessions_that_will_end(
    olga: Browser, conn: db.Connection, account: Callable[[], Account]
) -> None:
    now = clock.now_ms()
    rows = [
        session_records.SmppSessionRecord(number, account().id, "127.0.0.1", "transceiver", "", 1, now, now)
        for number in (1, 2)
    ]
    session_records.insert_smpp_sessions(conn, rows)
    assert "The 2 open sessions end at once." in olga.get("/admin/accounts/smpp-acme-1/disable", htmx="dialog").text


def test_disabling_moves_what_the_smpp_server_watches(
    olga: Browser, conn: db.Connection, account: Callable[[], Account]
) -> None:
    smpp_config.save_applied_config_versions(
        conn, {each.id: each.version for each in smpp_config.load_account_configs(conn)}
    )
    before = smpp_config.read_config_version(conn)
    tile = olga.post("/admin/accounts/smpp-acme-1/disable", htmx="status").text
    assert [each.enabled for each in smpp_config.load_account_configs(conn, before)] == [False]
    assert "the SMPP server is about to take it over" in tile
    assert 'hx-trigger="every 1s"' in tile
    smpp_config.save_applied_config_versions(
        conn, {each.id: each.version for each in smpp_config.load_account_configs(conn)}
    )
    tile = olga.get("/admin/accounts/smpp-acme-1", htmx="status").text
    assert "about to take it over" not in tile
    assert "hx-trigger" not in tile


def test_htmx_gets_the_tile_the_header_and_a_toast(olga: Browser) -> None:
    answer = olga.post("/admin/accounts/smpp-acme-1/disable", htmx="status")
    assert answer.text.lstrip().startswith('<section class="tile" id="status"')
    assert 'id="account-status" hx-swap-oob="true"' in answer.text
    assert "smpp-acme-1 was disabled." in answer.text
    assert "<html" not in answer.text


@pytest.mark.parametrize("htmx", [False, "limits"])
def test_limits_are_set(olga: Browser, account: Callable[[], Account], htmx: bool | str) -> None:
    data = {"windowing": "50", "throughput": "0", "binds": "3", "any_sender": "y"}
    answer = olga.post("/admin/accounts/smpp-acme-1/limits", data=data, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    changed = account()
    assert (changed.windowing, changed.throughput, changed.binds, changed.any_sender) == (50, 0, 3, True)
    shown = answer.text if htmx else olga.get(answer.location).text
    assert "The limits of smpp-acme-1 were changed." in shown
    assert 'value="50"' in shown


def test_codings_are_ticked_and_unticked(olga: Browser, account: Callable[[], Account]) -> None:
    limits = {"windowing": "5", "throughput": "5", "binds": "5"}
    olga.post("/admin/accounts/smpp-acme-1/limits", data=limits | {"latin_1": "y", "binary": "y", "packed_gsm": "y"})
    assert (account().data_codings, account().packed_gsm) == (frozenset({3, 4}), True)
    page = olga.get("/admin/accounts/smpp-acme-1").text
    ticked = {name for name in ("ascii", "latin_1", "binary", "packed_gsm") if f'<input checked id="{name}"' in page}
    assert ticked == {"latin_1", "binary", "packed_gsm"}
    olga.post("/admin/accounts/smpp-acme-1/limits", data=limits | {"ascii": "y"})
    assert (account().data_codings, account().packed_gsm) == (frozenset({1}), False)


def test_what_national_numbers_mean_is_chosen(olga: Browser, account: Callable[[], Account]) -> None:
    limits = {"windowing": "5", "throughput": "5", "binds": "5"}
    for value in ("refused", "DE", "ignored"):
        olga.post("/admin/accounts/smpp-acme-1/limits", data=limits | {"national_numbers": value})
        assert account().national_numbers == value
        page = olga.get("/admin/accounts/smpp-acme-1").text
        assert re.findall('<option selected value="([^"]*)">', page).count(value) == 1
    # No page sends these; a name that is no country's changes nothing.
    for value in ("Germany", " D", "", "country"):
        answer = olga.post("/admin/accounts/smpp-acme-1/limits", data=limits | {"national_numbers": value})
        assert (answer.status_code, account().national_numbers) == (422, "ignored")


def test_countries_of_national_numbers_have_their_names_in_the_readers_language(olga: Browser) -> None:
    olga.post("/language", data={"locale": "it", "next": "/"})
    page = olga.get("/admin/accounts/smpp-acme-1").text
    assert '<optgroup label="Lette come numeri nazionali di"><option value="AF">Afghanistan</option>' in page
    # By name: Åland among the A, Germania before Ghana.
    names = re.findall('<option value="[A-Z]{2}">([^<]*)</option>', page)
    assert names.index("Isole Åland") < names.index("Italia")
    assert names.index("Georgia") < names.index("Germania") < names.index("Ghana")


@pytest.mark.parametrize("htmx", [False, "limits"])
@pytest.mark.parametrize(("field", "value"), [("windowing", "ten"), ("throughput", "-1"), ("binds", "100001")])
def test_a_limit_that_is_none_is_refused_at_its_field(
    olga: Browser, account: Callable[[], Account], field: str, value: str, htmx: bool | str
) -> None:
    data = {"windowing": "5", "throughput": "5", "binds": "5"} | {field: value}
    answer = olga.post("/admin/accounts/smpp-acme-1/limits", data=data, htmx=htmx)
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert f"“{value}” can&#39;t be a limit" in answer.text
    assert account().windowing == 10
