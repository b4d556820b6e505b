from collections.abc import Collection
from typing import Any

import pytest

from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL, Actor
from portal.services.messages import inbound_numbers, smpp_config
from portal.services.senders import senders
from tests.documents import JPEG, PDF
from tests.services.audit_log import list_audit_entries


def allowed(conn: Connection, account: Account) -> Collection[str]:
    return next(each.senders for each in smpp_config.load_account_configs(conn) if each.id == account.id)


@pytest.mark.parametrize(
    ("address", "kind"),
    [("ACME", "alpha"), ("A-1.b_c,&+", "alpha"), ("ACME 24", "alpha"), ("123", "shortcode"), ("12345678", "shortcode"),
     ("393401234567", "numeric"), ("+393401234567", "numeric"), ("+39 340 123-4567", "numeric"),
     (" +6834000 ", "numeric"), ("6834000", "shortcode"), ("A 1", "alpha"), ("1-1A", "alpha"),
     ("00 39 340 123-4567", "numeric"), ("00123", "shortcode")],
)  # fmt: skip
def test_types(conn, acme_2, address, kind):
    added = senders.add_sender(conn, SHELL, acme_2, address)
    assert (added.type, added.status) == (kind, senders.WAITING)
    plain = address.strip().removeprefix("+").removeprefix("00 ")
    assert added.address == (plain if kind == "alpha" else plain.replace(" ", "").replace("-", ""))


def test_a_number_is_a_virtual_one_while_it_reaches_the_account(conn, acme_1, acme_2):
    number, code = "393401234567", "48484"
    for account in (acme_1, acme_2):
        senders.add_sender(conn, SHELL, account, number)
    senders.add_sender(conn, SHELL, acme_1, code)
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, number, "news")
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, code)
    types = {each.address: each.type for each in senders.list_senders(conn, acme_1.id)}
    assert (types[number], types[code], types["ACME"]) == (senders.VIRTUAL, senders.SHORTCODE, senders.ALPHA)
    assert senders.list_senders(conn, acme_2.id)[0].type == senders.NUMERIC
    inbound_numbers.remove_inbound_number(conn, SHELL, acme_1, number, "news")
    assert senders.get_sender(conn, acme_1, number).type == senders.NUMERIC


@pytest.mark.parametrize("address", ["999123456789", "+210123456789"])
def test_a_number_begins_with_a_country_s_code(conn, acme_2, address):
    with pytest.raises(senders.UnknownCountryCode, match=address.removeprefix("+")):
        senders.add_sender(conn, SHELL, acme_2, address)


@pytest.mark.parametrize(
    "address",
    ["", "AB", "x" * 12, "12", "0123456789", "1234567890123456", "ACMÉ", "A\nB", "A\tB", "A/B", "---", "АСМЕ"],
)
def test_what_can_be_no_sender(conn, acme_2, address):
    with pytest.raises(senders.InvalidSender):
        senders.add_sender(conn, SHELL, acme_2, address)


def test_a_sender_waits_until_it_is_approved(conn, acme_2):
    senders.add_sender(conn, SHELL, acme_2, "SHOP", description="Web shop", reason="Orders")
    assert allowed(conn, acme_2) == frozenset()
    (request,) = senders.list_pending_sender_requests(conn, 10)
    assert (request.account, request.customer, request.reason) == (acme_2.name, "Acme", "Orders")
    assert senders.count_pending_sender_requests(conn) == 1
    senders.decide_sender(conn, SHELL, acme_2, "SHOP", approve=True)
    assert allowed(conn, acme_2) == {"SHOP"}
    assert (senders.list_pending_sender_requests(conn, 10), senders.count_pending_sender_requests(conn)) == ([], 0)


def test_a_decision_can_be_changed(conn, acme_1):
    refused = senders.decide_sender(conn, SHELL, acme_1, "ACME", approve=False, comment="not yours")
    assert (refused.status, refused.comment) == (senders.REFUSED, "not yours")
    assert allowed(conn, acme_1) == frozenset()


def test_a_sender_is_listed_once_an_account(conn, acme_1, globex_1):
    with pytest.raises(senders.SenderExists):
        senders.add_sender(conn, SHELL, acme_1, "ACME")
    senders.add_sender(conn, SHELL, globex_1, "ACME")


def test_what_is_not_listed_cannot_be_decided(conn, acme_1):
    with pytest.raises(senders.NoSuchSender):
        senders.decide_sender(conn, SHELL, acme_1, "OTHER", approve=True)


def test_texts_have_bounds(conn, acme_1):
    for field in ("description", "reason"):
        too_long: dict[str, Any] = {field: "x" * 201}
        with pytest.raises(senders.SenderFieldTooLong) as caught:
            senders.add_sender(conn, SHELL, acme_1, "SHOP", **too_long)
        assert caught.value.field == field
    with pytest.raises(senders.SenderFieldTooLong):
        senders.decide_sender(conn, SHELL, acme_1, "ACME", approve=False, comment="x" * 201)


def test_an_account_has_a_hundred_senders_at_most(conn, acme_2):
    for number in range(100):
        senders.add_sender(conn, SHELL, acme_2, f"SHOP{number}")
    with pytest.raises(senders.SenderListFull):
        senders.add_sender(conn, SHELL, acme_2, "ONEMORE")
    senders.remove_senders(conn, SHELL, acme_2, [senders.list_senders(conn, acme_2.id)[0].id])
    senders.add_sender(conn, SHELL, acme_2, "ONEMORE")


def statuses(conn: Connection, account: Account) -> dict[str, str]:
    return {each.address: each.status for each in senders.list_senders(conn, account.id)}


# --- asking again


def test_one_that_was_refused_can_be_asked_for_again(conn, acme_1):
    first = senders.add_sender(conn, SHELL, acme_1, "SHOP", reason="none", document=PDF)
    senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=False, comment="Say why.")
    again = senders.add_sender(conn, SHELL, acme_1, "SHOP", description="Web shop", reason="Orders")
    assert (again.id, again.status, again.description, again.reason) == (
        first.id,
        senders.WAITING,
        "Web shop",
        "Orders",
    )
    assert (again.comment, again.document) == ("Say why.", first.document), "for whoever decides again"
    with pytest.raises(senders.SenderExists):
        senders.add_sender(conn, SHELL, acme_1, "SHOP")
    senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=False)
    document = senders.add_sender(conn, SHELL, acme_1, "SHOP", document=JPEG).document
    assert document is not None
    assert document.type == "jpeg"


def fill_list(conn: Connection, account: Account, count: int) -> None:
    """Ask for senders until the account has so many."""
    for number in range(count - len(senders.list_senders(conn, account.id))):
        senders.add_sender(conn, SHELL, account, f"SENDER{number}")


def test_a_full_list_can_ask_again(conn, acme_2):
    fill_list(conn, acme_2, senders.MAX_SENDERS - 1)
    senders.add_sender(conn, SHELL, acme_2, "SHOP")
    senders.decide_sender(conn, SHELL, acme_2, "SHOP", approve=False)
    with pytest.raises(senders.SenderListFull):
        senders.add_sender(conn, SHELL, acme_2, "SHOP2")
    assert senders.add_sender(conn, SHELL, acme_2, "SHOP").status == senders.WAITING


# --- deciding on what was seen


def test_who_decides_decides_on_what_they_have_seen(conn, acme_1):
    seen = senders.add_sender(conn, SHELL, acme_1, "SHOP").revision
    senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=False, revision=seen)
    for mark in (seen, ""):
        with pytest.raises(senders.SenderChanged):
            senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=True, revision=mark)
    assert statuses(conn, acme_1)["SHOP"] == senders.REFUSED


def test_one_that_was_asked_for_anew_is_another_one(conn, acme_1):
    seen = senders.add_sender(conn, SHELL, acme_1, "SHOP", reason="Orders").revision
    senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=False)
    senders.add_sender(conn, SHELL, acme_1, "SHOP", reason="Something else", now=now_ms() + 1)
    with pytest.raises(senders.SenderChanged):
        senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=True, revision=seen)


# --- disabling and enabling


def test_an_approved_one_is_disabled_and_enabled(conn, acme_1):
    acme = senders.get_sender(conn, acme_1, "ACME")
    assert senders.set_sender_enabled(conn, SHELL, acme_1, acme.id, enabled=False).status == senders.DISABLED
    assert allowed(conn, acme_1) == frozenset()
    assert senders.set_sender_enabled(conn, SHELL, acme_1, acme.id, enabled=True).status == senders.ENABLED
    assert allowed(conn, acme_1) == {"ACME"}


def test_switching_to_what_it_is_changes_nothing(conn, acme_1):
    acme, before = senders.get_sender(conn, acme_1, "ACME"), smpp_config.read_config_version(conn)
    assert senders.set_sender_enabled(conn, SHELL, acme_1, acme.id, enabled=True).status == senders.ENABLED
    assert smpp_config.read_config_version(conn) == before


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("refused", [True, False])
def test_nobody_enables_what_was_not_approved(conn, acme_1, on, refused):
    sender = senders.add_sender(conn, SHELL, acme_1, "SHOP")
    if refused:
        senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=False)
    before = statuses(conn, acme_1)
    with pytest.raises(senders.SenderNotApproved):
        senders.set_sender_enabled(conn, SHELL, acme_1, sender.id, enabled=on)
    assert statuses(conn, acme_1) == before


def test_nobody_switches_another_account_s(conn, acme_1, globex_1):
    acme = senders.get_sender(conn, acme_1, "ACME")
    with pytest.raises(senders.NoSuchSender):
        senders.set_sender_enabled(conn, SHELL, globex_1, acme.id, enabled=False)
    assert allowed(conn, acme_1) == {"ACME"}


# --- removing, and bringing back


def test_several_are_removed_together_and_come_back_as_they_were(conn, acme_1):
    senders.add_sender(conn, SHELL, acme_1, "SHOP", description="Web shop", reason="Orders", document=PDF)
    senders.add_sender(conn, SHELL, acme_1, "STAYS")
    before = senders.list_senders(conn, acme_1.id)
    ids = [each.id for each in before if each.address != "STAYS"]
    removed = senders.remove_senders(conn, SHELL, acme_1, ids)
    assert [each.address for each in removed] == ["SHOP", "ACME"]
    assert (statuses(conn, acme_1), allowed(conn, acme_1)) == ({"STAYS": senders.WAITING}, frozenset())
    assert [each.id for each in senders.restore_senders(conn, SHELL, acme_1, ids)] == ids
    assert senders.list_senders(conn, acme_1.id) == before
    assert allowed(conn, acme_1) == {"ACME"}
    with pytest.raises(senders.NoSuchSender):
        senders.restore_senders(conn, SHELL, acme_1, ids)


def test_nobody_removes_or_brings_back_another_account_s(conn, acme_1, globex_1):
    acme = senders.get_sender(conn, acme_1, "ACME")
    with pytest.raises(senders.NoSuchSender):
        senders.remove_senders(conn, SHELL, globex_1, [acme.id])
    globex = senders.get_sender(conn, globex_1, "GLOBEX")
    assert senders.remove_senders(conn, SHELL, acme_1, [acme.id, globex.id]) == [acme]
    with pytest.raises(senders.NoSuchSender):
        senders.restore_senders(conn, SHELL, globex_1, [acme.id])
    assert allowed(conn, globex_1) == {"GLOBEX"}


def test_after_a_quarter_of_an_hour_it_is_gone(conn, acme_1):
    acme = senders.get_sender(conn, acme_1, "ACME")
    senders.remove_senders(conn, SHELL, acme_1, [acme.id])
    with pytest.raises(senders.NoSuchSender):
        senders.restore_senders(conn, SHELL, acme_1, [acme.id], now=now_ms() + 15 * 60_000)


def test_what_was_asked_for_again_meanwhile_stays_as_it_is(conn, acme_1):
    ids = [senders.get_sender(conn, acme_1, "ACME").id, senders.add_sender(conn, SHELL, acme_1, "SHOP").id]
    senders.remove_senders(conn, SHELL, acme_1, ids)
    senders.add_sender(conn, SHELL, acme_1, "ACME")
    for decided in (False, True):
        with pytest.raises(senders.SenderExists):
            senders.restore_senders(conn, SHELL, acme_1, ids)
        assert list(statuses(conn, acme_1)) == ["ACME"], "all of them, or none"
        if not decided:
            senders.decide_sender(conn, SHELL, acme_1, "ACME", approve=False)
    assert statuses(conn, acme_1) == {"ACME": senders.REFUSED}


def test_a_full_list_takes_none_back(conn, acme_1):
    acme = senders.get_sender(conn, acme_1, "ACME")
    senders.remove_senders(conn, SHELL, acme_1, [acme.id])
    fill_list(conn, acme_1, senders.MAX_SENDERS)
    with pytest.raises(senders.SenderListFull):
        senders.restore_senders(conn, SHELL, acme_1, [acme.id])


# --- who looks


def test_the_queue_is_in_the_order_of_asking(conn, acme_1, globex_1):
    now = now_ms()
    for number, (account, address) in enumerate([(acme_1, "SHOP"), (globex_1, "NEWS"), (acme_1, "MORE")]):
        senders.add_sender(conn, SHELL, account, address, now=now + number)
    senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=False)
    senders.add_sender(conn, SHELL, acme_1, "SHOP", now=now + 10)
    assert [each.address for each in senders.list_pending_sender_requests(conn, 10)] == ["NEWS", "MORE", "SHOP"]
    assert [each.address for each in senders.list_pending_sender_requests(conn, 2)] == ["NEWS", "MORE"]
    assert senders.count_pending_sender_requests(conn) == 3


def test_what_was_decided_is_found_by_its_words(conn, acme_1, globex_1):
    senders.add_sender(conn, SHELL, acme_1, "SHOP")
    assert [each.address for each in senders.search_decided_senders(conn, "", 10)] == ["GLOBEX", "ACME"]
    for words, found in (("glob", ["GLOBEX"]), ("ACME-1", ["ACME"]), ("acme", ["ACME"]), ("%", [])):
        assert [each.address for each in senders.search_decided_senders(conn, words, 10)] == found
    assert len(senders.search_decided_senders(conn, "", 1)) == 1


def test_all_of_it_is_in_the_audit_log(conn, acme_1):
    actor = Actor("alice@acme.example")
    sender = senders.add_sender(conn, actor, acme_1, "SHOP", document=PDF)
    senders.decide_sender(conn, actor, acme_1, "SHOP", approve=True, comment="Seen")
    senders.set_sender_enabled(conn, actor, acme_1, sender.id, enabled=False)
    senders.set_sender_enabled(conn, actor, acme_1, sender.id, enabled=True)
    senders.remove_senders(conn, actor, acme_1, [sender.id])
    senders.restore_senders(conn, actor, acme_1, [sender.id])
    entries = [each for each in list_audit_entries(conn, acme_1.id) if each.actor == actor.name]
    assert [each.action.removeprefix("sender.") for each in reversed(entries)] == [
        "add", "approve", "disable", "enable", "remove", "restore",
    ]  # fmt: skip
    assert {each.details["address"] for each in entries} == {"SHOP"}
    assert sender.document is not None
    assert (entries[-1].details["document"], entries[-2].details["comment"]) == (sender.document.id, "Seen")
