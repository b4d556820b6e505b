import pytest

from portal.core.db import Connection
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.messages import inbound_numbers
from portal.services.senders import confusables, senders
from portal.services.senders.confusables import COMMON_PREFIX, IDENTICAL, INBOUND_NUMBER, LOOKALIKE, ONE_EDIT_AWAY
from portal.services.senders.senders import Sender


def approve(conn: Connection, account: Account, address: str) -> Sender:
    added = senders.add_sender(conn, SHELL, account, address)
    return senders.decide_sender(conn, SHELL, account, added.address, approve=True)


def resembled(conn: Connection, sender: Sender) -> list[tuple[str, str]]:
    return [(each.kind, each.address) for each in confusables.find_similar_senders(conn, [sender]).get(sender.id, [])]


@pytest.mark.parametrize(
    ("approved", "requested", "how"),
    [
        ("PosteInfo", "PosteInfo", IDENTICAL),
        ("PosteInfo", "POSTEINFO", LOOKALIKE),
        ("PosteInfo", "Poste-Info", LOOKALIKE),
        ("PosteInfo", "Poste Info", LOOKALIKE),
        ("PosteInfo", "P0steInf0", LOOKALIKE),
        ("PosteInfo", "Postelnfo", LOOKALIKE),
        ("PosteInfo", "Poste1nfo", LOOKALIKE),
        ("PosteInfo", "Po5teInfo", LOOKALIKE),
        ("modern", "rnodem", LOOKALIKE),
        ("WAVE", "VVAVE", LOOKALIKE),
        ("BANK", "8ANK", LOOKALIKE),
        ("PosteInfo", "PostInfo", ONE_EDIT_AWAY),
        ("PosteInfo", "PostesInfo", ONE_EDIT_AWAY),
        ("PosteInfo", "PasteInfo", ONE_EDIT_AWAY),
        ("PosteInfo", "PosetInfo", ONE_EDIT_AWAY),
        ("PAYPAL", "PAYPAI", LOOKALIKE),
        ("Bank", "Bank-Alert", COMMON_PREFIX),
        ("48484", "48484", IDENTICAL),
        ("0800", "O8OO", LOOKALIKE),
        ("393401234567", "+39 340 1234567", IDENTICAL),
    ],
)  # fmt: skip
def test_what_resembles_another_customer_s(conn, acme_1, globex_1, approved, requested, how):
    address = approve(conn, globex_1, approved).address
    assert resembled(conn, senders.add_sender(conn, SHELL, acme_1, requested)) == [(how, address)]


@pytest.mark.parametrize(
    ("approved", "requested"),
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
def test_what_does_not(conn, acme_1, globex_1, approved, requested):
    approve(conn, globex_1, approved)
    assert resembled(conn, senders.add_sender(conn, SHELL, acme_1, requested)) == []


def test_whose_it_is_and_what_is_closest_first(conn, acme_1, globex_1):
    for each in ("Globes", "Globexx", "GL0BEX", "Glob"):
        approve(conn, globex_1, each)
    sender = senders.add_sender(conn, SHELL, acme_1, "GLOBEX")
    similar = confusables.find_similar_senders(conn, [sender])[sender.id]
    assert [(each.kind, each.address) for each in similar] == [
        (IDENTICAL, "GLOBEX"), (LOOKALIKE, "GL0BEX"), (ONE_EDIT_AWAY, "Globes"), (ONE_EDIT_AWAY, "Globexx"),
        (COMMON_PREFIX, "Glob"),
    ]  # fmt: skip
    assert {(each.account, each.customer) for each in similar} == {("smpp-globex-1", "Globex")}


def test_one_s_own_and_what_is_not_approved_count_for_nothing(conn, acme_1, acme_2, globex_1):
    requested = senders.add_sender(conn, SHELL, acme_2, "ACME")
    assert resembled(conn, requested) == [], "ACME is approved for the customer's first account"
    senders.add_sender(conn, SHELL, globex_1, "SHOP")
    refused = senders.add_sender(conn, SHELL, globex_1, "SH0P")
    senders.decide_sender(conn, SHELL, globex_1, refused.address, approve=False)
    assert resembled(conn, senders.add_sender(conn, SHELL, acme_1, "SHOP")) == []


def test_one_that_its_customer_has_disabled_counts(conn, acme_1, globex_1):
    globex = senders.get_sender(conn, globex_1, "GLOBEX")
    senders.set_sender_enabled(conn, SHELL, globex_1, globex.id, enabled=False)
    assert resembled(conn, senders.add_sender(conn, SHELL, acme_1, "GLOBEX")) == [(IDENTICAL, "GLOBEX")]


def test_a_number_that_reaches_another_customer(conn, acme_1, globex_1):
    inbound_numbers.add_inbound_number(conn, SHELL, globex_1, "393401234999")
    assert resembled(conn, senders.add_sender(conn, SHELL, acme_1, "393401234999")) == [
        (INBOUND_NUMBER, "393401234999")
    ]
    assert resembled(conn, senders.add_sender(conn, SHELL, globex_1, "393401234999")) == []


def test_several_are_looked_at_together(conn, acme_1, globex_1):
    approve(conn, acme_1, "Fabrikam")
    mine, theirs = (
        senders.add_sender(conn, SHELL, acme_1, "Globex"),
        senders.add_sender(conn, SHELL, globex_1, "fabrikam"),
    )
    nothing = senders.add_sender(conn, SHELL, acme_1, "SHOP")
    similar = confusables.find_similar_senders(conn, [mine, theirs, nothing])
    assert {key: [each.address for each in value] for key, value in similar.items()} == {
        mine.id: ["GLOBEX"],
        theirs.id: ["Fabrikam"],
    }


def test_a_disabled_account_s_senders_count_too(conn, acme_1, globex_1):
    accounts.disable_account(conn, SHELL, globex_1)
    assert resembled(conn, senders.add_sender(conn, SHELL, acme_1, "GLOBEX")) == [(IDENTICAL, "GLOBEX")]
