"""Why binds and messages were refused, in words, and what helps: as the account is now."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from portal.core import i18n
from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import accounts, allowed_ips, credentials, refused_binds, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.refusals import OTHERS
from portal.services.accounts.refused_binds import RefusedBind
from portal.services.accounts.session_records import SmppSessionRecord
from portal.services.brakes import brakes
from portal.services.brakes.brakes import OFF, Brakes
from portal.services.common.audit import SHELL
from portal.services.messages import blacklist, intake, refusal_remedies
from portal.services.messages.refusal_remedies import ExplainedRefusal
from portal.services.prices import prices
from portal.services.senders import senders
from portal.services.statistics import daily_totals
from portal.services.upstreams import upstreams
from tests.services.upstreams.waiting import add_upstream
from tests.support import Cast, prepare_submit, record_refused_messages

CODING_3 = "data_coding 3 isn't supported: use 0 (GSM 03.38) or 8 (UCS-2)."


@pytest.fixture
def explain(conn: Connection, acme_1: Account) -> Callable[..., ExplainedRefusal]:
    """What is said of one refused message, or bind, of the account as it is now."""

    def explain(reason: str, value: str = "", *, is_bind: bool = False) -> ExplainedRefusal:
        conn.execute("DELETE FROM refusals")
        if is_bind:
            refused_binds.record_refused_binds(conn, [RefusedBind(acme_1.id, value, reason, now_ms())])
        else:
            record_refused_messages(conn, acme_1.id, {(reason, value): 1})
        account = accounts.get_account(conn, acme_1.name)
        (found,) = refusal_remedies.list_explained_refusals(conn, account, now_ms() - HOUR_MS)
        return found

    return explain


def said(explained: ExplainedRefusal) -> tuple[str, str, str, bool]:
    return explained.text, explained.remedy, explained.ask_for, explained.is_resolved


def test_a_sender_is_asked_for_and_then_waits_and_is_approved(
    conn: Connection, acme_1: Account, explain: Callable[..., ExplainedRefusal]
) -> None:
    text = "The sender NOTMINE isn't approved."
    assert said(explain("sender", "NOTMINE")) == (text, "add_sender", "", False)
    found = explain("sender", "AB")
    assert found.text.startswith("The sender AB isn't approved. “AB” can't be a sender: it is 3 to 11 letters")
    assert said(found)[1:] == ("", "", False)
    assert said(explain("sender", "")) == ("The message names no sender.", "", "", False)
    senders.add_sender(conn, SHELL, acme_1, "NOTMINE")
    assert said(explain("sender", "NOTMINE")) == (text, "see_sender", "", False)
    senders.decide_sender(conn, SHELL, acme_1, "NOTMINE", approve=True)
    assert said(explain("sender", "NOTMINE")) == (text, "", "", True)
    assert said(explain("sender", OTHERS)) == ("Other senders that aren't approved.", "", "", False)


@pytest.mark.parametrize(
    ("reason", "value", "ask_for", "setting", "text"),
    [
        ("throughput", "20", "throughput", {"throughput": 21}, "The throughput of 20 messages a second was reached."),
        ("window", "1000", "windowing", {"windowing": 0}, "The window of 1,000 unanswered messages was full."),
        ("coding", "3", "coding", {"data_codings": (3,)}, CODING_3),
    ],
)  # fmt: skip
def test_more_is_asked_for_until_there_is_more(
    conn: Connection,
    acme_1: Account,
    explain: Callable[..., ExplainedRefusal],
    reason: str,
    value: str,
    ask_for: str,
    setting: accounts.AccountSettings,
    text: str,
) -> None:
    accounts.change_account(conn, SHELL, acme_1, throughput=20, windowing=1000)
    assert said(explain(reason, value)) == (text, "", ask_for, False)
    accounts.change_account(conn, SHELL, acme_1, **setting)
    assert said(explain(reason, value)) == (text, "", ask_for, True)


def test_a_coding_that_no_account_may_have_is_not_asked_for(explain: Callable[..., ExplainedRefusal]) -> None:
    assert explain("coding", "13").ask_for == ""


def test_a_country_without_a_price_or_a_route(
    conn: Connection, keys: Keys, explain: Callable[..., ExplainedRefusal]
) -> None:
    prices.set_prices(conn, SHELL, {"JP": None})
    assert said(explain("price", "JP")) == (
        "There is no price for Japan, so nothing is sent there.",
        "",
        "price",
        False,
    )
    prices.set_prices(conn, SHELL, {"JP": 1000})
    assert explain("price", "JP").is_resolved
    # A range of its numbers is closed: the message may have been to one of these.
    prices.set_prices(conn, SHELL, {"8190": None})
    assert not explain("price", "JP").is_resolved
    carrier = add_upstream(conn, keys)
    upstreams.set_default_upstream(conn, SHELL, None)
    assert said(explain("route", "JP")) == ("No route leads to Japan.", "", "route", False)
    upstreams.set_default_upstream(conn, SHELL, carrier)
    assert explain("route", "JP").is_resolved


def test_whose_brake_it_is_decides_what_helps(
    conn: Connection, acme_1: Account, explain: Callable[..., ExplainedRefusal]
) -> None:
    brakes.set_brakes(conn, SHELL, acme_1, Brakes(frozenset(("IT", "FR")), day_messages=100))
    brakes.set_own_brakes(
        conn, SHELL, acme_1, Brakes(frozenset(("IT",)), day_messages=50, hour_messages=3, unusual=OFF)
    )
    assert (explain("country", "FR").remedy, explain("country", "FR").ask_for) == ("own_brakes", "")
    assert (explain("country", "JP").remedy, explain("country", "JP").ask_for) == ("", "countries")
    assert "sends no messages to Japan" in explain("country", "JP").text
    assert explain("country", "IT").is_resolved
    assert explain("day_messages").remedy == explain("hour_messages").remedy == "own_brakes"
    assert "The most messages a day (50) were reached." in explain("day_messages").text
    assert explain("day_credits").is_resolved
    brakes.set_own_brakes(conn, SHELL, acme_1, Brakes(unusual=OFF))
    assert (explain("day_messages").remedy, explain("day_messages").ask_for) == ("", "day_messages")


@pytest.mark.parametrize("reason", ["destination", "national", "text", "length", "time", "format", "server", "state"])
def test_what_only_the_client_can_mend_is_said_without_a_button(
    explain: Callable[..., ExplainedRefusal], reason: str
) -> None:
    found = explain(reason, "8" if reason == "text" else "")
    assert found.text
    assert "%" not in found.text
    assert said(found)[1:] == ("", "", False)


def test_refused_binds(conn: Connection, keys: Keys, acme_1: Account, explain: Callable[..., ExplainedRefusal]) -> None:
    address = "203.0.113.7"
    assert said(explain("not_authorised", address, is_bind=True)) == (
        "It is not an authorised IP.", "authorise", "", False,
    )  # fmt: skip
    allowed_ips.add_allowed_ip(conn, SHELL, acme_1, address)
    assert said(explain("not_authorised", address, is_bind=True))[1:] == ("", "", True)
    found = explain("wrong_password", address, is_bind=True)
    assert said(found)[1:] == ("new_password", "", False)
    credentials.regenerate_smpp_password(conn, keys, SHELL, acme_1, send_mail=False)
    conn.execute("UPDATE smpp_passwords SET created_at = created_at + 10")
    account = accounts.get_account(conn, acme_1.name)
    (found,) = refusal_remedies.list_explained_refusals(conn, account, now_ms() - HOUR_MS)
    assert said(found)[1:] == ("", "", True)
    accounts.disable_account(conn, SHELL, acme_1)
    assert said(explain("disabled", address, is_bind=True))[1:] == ("", "account", False)


@pytest.mark.parametrize("reason", ["wrong_password", "replaced_password", "throttled"])
def test_a_client_that_was_bound_since_is_refused_no_more(
    conn: Connection, acme_1: Account, explain: Callable[..., ExplainedRefusal], reason: str
) -> None:
    address, now = "203.0.113.7", now_ms()
    session = SmppSessionRecord(1, acme_1.id, address, "transceiver", "", 1, now - HOUR_MS, now)
    session_records.insert_smpp_sessions(conn, [session])
    assert not explain(reason, address, is_bind=True).is_resolved, "another one is at the same address"
    session_records.insert_smpp_sessions(conn, [replace(session, id=2, bound_at=now_ms() + 10_000)])
    assert said(explain(reason, address, is_bind=True))[1:] == ("", "", True)
    assert not explain(reason, "203.0.113.8", is_bind=True).is_resolved


def test_too_many_sessions_are_resolved_by_one_less_or_by_more_places(
    conn: Connection, acme_1: Account, explain: Callable[..., ExplainedRefusal]
) -> None:
    accounts.change_account(conn, SHELL, acme_1, binds=1)
    now = now_ms()
    session_records.insert_smpp_sessions(
        conn, [SmppSessionRecord(1, acme_1.id, "127.0.0.1", "transceiver", "", 1, now, now)]
    )
    assert said(explain("too_many_binds", "203.0.113.7", is_bind=True))[1:] == ("sessions", "binds", False)
    accounts.change_account(conn, SHELL, acme_1, binds=2)
    assert explain("too_many_binds", "203.0.113.7", is_bind=True).is_resolved


def test_what_the_history_has_stands_beside_and_is_counted_once(conn: Connection, acme_1: Account) -> None:
    blacklist.add_blacklist_number(conn, SHELL, acme_1, "393409999999")
    conn.execute("UPDATE accounts SET balance = 0 WHERE id = ?", (acme_1.id,))
    submits = [prepare_submit(conn, acme_1.id, destination=each) for each in ("393409999999", *2 * ["393401111111"])]
    intake.store_messages(conn, submits)
    account = accounts.get_account(conn, acme_1.name)
    now = now_ms()
    # From the beginning of the day on, and of the one before, which had none.
    for since in (now // DAY_MS * DAY_MS, (now // DAY_MS - 1) * DAY_MS):
        found = refusal_remedies.list_explained_refusals(conn, account, since, (now // DAY_MS + 1) * DAY_MS)
        assert {(each.group.reason, each.group.count, each.remedy) for each in found} == {
            ("no_credits", 2, "add_credits"),
            ("blacklisted", 1, "blacklist"),
        }
    yesterday = refusal_remedies.list_explained_refusals(
        conn, account, (now // DAY_MS - 1) * DAY_MS, now // DAY_MS * DAY_MS
    )
    assert yesterday == []
    assert [each.group.reason for each in refusal_remedies.list_weightiest_refusals(conn, account)] == ["no_credits"]


def test_the_days_of_a_period_are_those_that_it_mostly_has_and_this_one_until_it_is_over() -> None:
    now = now_ms()
    today = now // DAY_MS
    two_days = (today - 3) * DAY_MS, (today - 1) * DAY_MS
    for shift in (-11, 0, 11):
        since, until = (each + shift * HOUR_MS for each in two_days)
        assert refusal_remedies.get_days_of_period(since, until) == (today - 3, today - 2)
    for until in (now + 60_000, now + HOUR_MS, now + DAY_MS):
        assert refusal_remedies.get_days_of_period(until - 2 * DAY_MS, until)[1] >= today
    tomorrow = (today + 1) * DAY_MS
    assert refusal_remedies.get_days_of_period(tomorrow - HOUR_MS, tomorrow) == (today, today)


def test_what_the_credits_did_not_cover_is_told_whether_anything_else_was_refused_or_not(
    conn: Connection, acme_1: Account
) -> None:
    conn.execute("UPDATE accounts SET balance = 0 WHERE id = ?", (acme_1.id,))
    account = accounts.get_account(conn, acme_1.name)
    today = now_ms() // DAY_MS
    daily_totals.add_daily_totals(conn, [(acme_1.id, today - days, 0, 0, 0, 0, 5, 0, 0) for days in (0, 1, 2)])

    def count_without_credits() -> list[int]:
        listed = refusal_remedies.list_weightiest_refusals(conn, account)
        return [each.group.count for each in listed if each.group.reason == "no_credits"]

    alone = count_without_credits()
    # In the morning the greater part of the last 24 hours is of the day before.
    assert alone in ([5], [10])
    record_refused_messages(conn, acme_1.id, {("sender", "NOTMINE"): 1})
    assert count_without_credits() == alone


def test_the_weightiest_are_what_keeps_everything_out_and_then_the_most_frequent(
    conn: Connection, cast: Cast, acme_1: Account
) -> None:
    record_refused_messages(conn, acme_1.id, {("sender", "ACME"): 900, ("sender", "NOTMINE"): 7, ("length", ""): 8})
    record_refused_messages(conn, acme_1.id, {("text", "0"): 900}, now_ms() - 3 * DAY_MS)
    record_refused_messages(conn, cast.smpp_globex_1.id, {("time", ""): 900})
    refused = [RefusedBind(acme_1.id, "203.0.113.7", refused_binds.WRONG_PASSWORD, now_ms())]
    refused_binds.record_refused_binds(conn, refused)

    def list_reasons() -> list[str]:
        return [each.group.reason for each in refusal_remedies.list_weightiest_refusals(conn, acme_1)]

    assert list_reasons() == ["wrong_password", "length", "sender"]
    now = now_ms()
    session_records.insert_smpp_sessions(
        conn, [SmppSessionRecord(1, acme_1.id, "127.0.0.1", "transceiver", "", 1, now, now)]
    )
    assert list_reasons() == ["length", "sender", "wrong_password"]


def test_it_is_said_in_italian(explain: Callable[..., ExplainedRefusal]) -> None:
    with i18n.override_language("it"):
        assert explain("sender", "NOTMINE").text == "Il mittente NOTMINE non è approvato."
        assert explain("route", "JP").text == "Manca una rotta per la destinazione Giappone."


def test_of_very_many_the_rarest_are_counted_and_not_explained(conn: Connection, acme_1: Account) -> None:
    many = {("sender", f"S{number}"): 2 for number in range(refusal_remedies.MANY)}
    rare = {("length", ""): 1, ("time", ""): 1}
    record_refused_messages(conn, acme_1.id, many | rare)
    found = refusal_remedies.list_weightiest_refusals(conn, acme_1)
    assert len(found) == len(many) + 2
    assert [each.group.reason for each in found if not each.text] == ["length", "time"]
    assert not any(each.text for each in found[-2:])
    every = refusal_remedies.list_explained_refusals(conn, acme_1, now_ms() - HOUR_MS)
    assert all(each.text for each in every)
