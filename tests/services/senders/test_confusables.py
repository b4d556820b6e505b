import pytest

from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.messages import inbound_numbers
from portal.services.senders import confusables, senders
from portal.services.senders.confusables import BEGINS, LOOKS, NEAR, REACHES, SAME


def approve(conn, account, address):
    added = senders.add(conn, SHELL, account, address)
    return senders.decide(conn, SHELL, account, added.address, approve=True)


def resembled(conn, sender):
    return [(each.how, each.address) for each in confusables.of(conn, [sender]).get(sender.id, [])]


@pytest.mark.parametrize(
    ("approved", "asked", "how"),
    [
        ("PosteInfo", "PosteInfo", SAME),
        ("PosteInfo", "POSTEINFO", LOOKS),
        ("PosteInfo", "Poste-Info", LOOKS),
        ("PosteInfo", "Poste Info", LOOKS),
        ("PosteInfo", "P0steInf0", LOOKS),
        ("PosteInfo", "Postelnfo", LOOKS),
        ("PosteInfo", "Poste1nfo", LOOKS),
        ("PosteInfo", "Po5teInfo", LOOKS),
        ("modern", "rnodem", LOOKS),
        ("WAVE", "VVAVE", LOOKS),
        ("BANK", "8ANK", LOOKS),
        ("PosteInfo", "PostInfo", NEAR),
        ("PosteInfo", "PostesInfo", NEAR),
        ("PosteInfo", "PasteInfo", NEAR),
        ("PosteInfo", "PosetInfo", NEAR),
        ("PAYPAL", "PAYPAI", LOOKS),
        ("Bank", "Bank-Alert", BEGINS),
        ("48484", "48484", SAME),
        ("0800", "O8OO", LOOKS),
        ("393401234567", "+39 340 1234567", SAME),
    ],
)  # fmt: skip
def test_what_resembles_another_customer_s(conn, acme_1, globex_1, approved, asked, how):
    address = approve(conn, globex_1, approved).address
    assert resembled(conn, senders.add(conn, SHELL, acme_1, asked)) == [(how, address)]


@pytest.mark.parametrize(
    ("approved", "asked"),
    [
        ("PosteInfo", "PasteLnf0x"),
        ("PosteInfo", "Infoposte"),
        ("PosteInfo", "oPosteInf"),
        ("PosteInfo", "Pote-Inf"),
        ("ANA", "ADA"),
        ("BANK", "BAND"),
        ("ANA", "Analisi"),
        ("Bank-Alert", "Bank"),
        ("393401234567", "393401234568"),
        ("48484", "48485"),
    ],
)
def test_what_does_not(conn, acme_1, globex_1, approved, asked):
    approve(conn, globex_1, approved)
    assert resembled(conn, senders.add(conn, SHELL, acme_1, asked)) == []


def test_whose_it_is_and_what_is_closest_first(conn, acme_1, globex_1):
    for each in ("Globes", "Globexx", "GL0BEX", "Glob"):
        approve(conn, globex_1, each)
    sender = senders.add(conn, SHELL, acme_1, "GLOBEX")
    found = confusables.of(conn, [sender])[sender.id]
    assert [(each.how, each.address) for each in found] == [
        (SAME, "GLOBEX"), (LOOKS, "GL0BEX"), (NEAR, "Globes"), (NEAR, "Globexx"), (BEGINS, "Glob"),
    ]  # fmt: skip
    assert {(each.account, each.customer) for each in found} == {("smpp-globex-1", "Globex")}


def test_one_s_own_and_what_is_not_approved_count_for_nothing(conn, acme_1, acme_2, globex_1):
    asked = senders.add(conn, SHELL, acme_2, "ACME")
    assert resembled(conn, asked) == [], "ACME is approved for the customer's first account"
    senders.add(conn, SHELL, globex_1, "SHOP")
    refused = senders.add(conn, SHELL, globex_1, "SH0P")
    senders.decide(conn, SHELL, globex_1, refused.address, approve=False)
    assert resembled(conn, senders.add(conn, SHELL, acme_1, "SHOP")) == []


def test_one_that_its_customer_has_disabled_counts(conn, acme_1, globex_1):
    globex = senders.by_address(conn, globex_1, "GLOBEX")
    senders.switch(conn, SHELL, globex_1, globex.id, on=False)
    assert resembled(conn, senders.add(conn, SHELL, acme_1, "GLOBEX")) == [(SAME, "GLOBEX")]


def test_a_number_that_reaches_another_customer(conn, acme_1, globex_1):
    inbound_numbers.add(conn, SHELL, globex_1, "393401234999")
    assert resembled(conn, senders.add(conn, SHELL, acme_1, "393401234999")) == [(REACHES, "393401234999")]
    assert resembled(conn, senders.add(conn, SHELL, globex_1, "393401234999")) == []


def test_several_are_looked_at_together(conn, acme_1, globex_1):
    approve(conn, acme_1, "Fabrikam")
    mine, theirs = senders.add(conn, SHELL, acme_1, "Globex"), senders.add(conn, SHELL, globex_1, "fabrikam")
    nothing = senders.add(conn, SHELL, acme_1, "SHOP")
    found = confusables.of(conn, [mine, theirs, nothing])
    assert {key: [each.address for each in value] for key, value in found.items()} == {
        mine.id: ["GLOBEX"],
        theirs.id: ["Fabrikam"],
    }


def test_a_disabled_account_s_senders_count_too(conn, acme_1, globex_1):
    accounts.disable(conn, SHELL, globex_1)
    assert resembled(conn, senders.add(conn, SHELL, acme_1, "GLOBEX")) == [(SAME, "GLOBEX")]
