import pytest

from portal.services import directory, senders
from portal.services.audit import SHELL


def allowed(conn, account):
    return next(each.senders for each in directory.load(conn) if each.id == account.id)


@pytest.mark.parametrize(
    ("address", "kind"),
    [("ACME", "alpha"), ("A-1.b_c,&+", "alpha"), ("ACME 24", "alpha"), ("123", "shortcode"), ("12345678", "shortcode"),
     ("393401234567", "numeric"), ("+393401234567", "numeric")],
)  # fmt: skip
def test_types(conn, acme_2, address, kind):
    added = senders.add(conn, SHELL, acme_2, address)
    assert (added.type, added.status) == (kind, senders.WAITING)
    assert added.address == address.removeprefix("+")


@pytest.mark.parametrize("address", ["", "AB", "x" * 12, "12", "0123456789", "1234567890123456", "ACMÉ", "A\nB", "---"])
def test_what_can_be_no_sender(conn, acme_2, address):
    with pytest.raises(senders.InvalidSender):
        senders.add(conn, SHELL, acme_2, address)


def test_a_sender_waits_until_it_is_approved(conn, acme_2):
    senders.add(conn, SHELL, acme_2, "SHOP", description="Web shop", reason="Orders")
    assert allowed(conn, acme_2) == frozenset()
    assert senders.waiting(conn)[0][0] == acme_2.name
    senders.decide(conn, SHELL, acme_2, "SHOP", approve=True)
    assert allowed(conn, acme_2) == {"SHOP"}
    assert senders.waiting(conn) == []


def test_a_decision_can_be_changed(conn, acme_1):
    refused = senders.decide(conn, SHELL, acme_1, "ACME", approve=False, comment="not yours")
    assert (refused.status, refused.comment) == (senders.REFUSED, "not yours")
    assert allowed(conn, acme_1) == frozenset()


def test_a_sender_is_listed_once_an_account(conn, acme_1, globex_1):
    with pytest.raises(senders.SenderExists):
        senders.add(conn, SHELL, acme_1, "ACME")
    senders.add(conn, SHELL, globex_1, "ACME")


def test_what_is_not_listed_cannot_be_decided(conn, acme_1):
    with pytest.raises(senders.NoSuchSender):
        senders.decide(conn, SHELL, acme_1, "OTHER", approve=True)


def test_texts_have_bounds(conn, acme_1):
    for field in ("description", "reason"):
        with pytest.raises(senders.TextTooLong) as caught:
            senders.add(conn, SHELL, acme_1, "SHOP", **{field: "x" * 201})
        assert caught.value.field == field
    with pytest.raises(senders.TextTooLong):
        senders.decide(conn, SHELL, acme_1, "ACME", approve=False, comment="x" * 201)


def test_removing(conn, acme_1, acme_2):
    sender = senders.by_address(conn, acme_1, "ACME")
    with pytest.raises(senders.NoSuchSender):
        senders.remove(conn, SHELL, acme_2, sender.id)
    assert senders.remove(conn, SHELL, acme_1, sender.id) == sender
    assert allowed(conn, acme_1) == frozenset()


def test_an_account_has_a_hundred_senders_at_most(conn, acme_2):
    for number in range(100):
        senders.add(conn, SHELL, acme_2, f"SHOP{number}")
    with pytest.raises(senders.ListFull):
        senders.add(conn, SHELL, acme_2, "ONEMORE")
    senders.remove(conn, SHELL, acme_2, senders.of_account(conn, acme_2.id)[0].id)
    senders.add(conn, SHELL, acme_2, "ONEMORE")
