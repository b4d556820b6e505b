from collections.abc import Callable
from email import message_from_bytes, policy

import pytest

from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.common.audit import SHELL, Actor
from portal.services.common.mail import send_due_mails
from portal.services.people import users
from portal.services.senders import senders
from tests.documents import PDF
from tests.services.mails import get_text

ALICE = Actor("alice@acme.example")


@pytest.fixture
def mails(conn: Connection, keys: Keys, config: Config) -> Callable[[], list[tuple[str, str, str, str]]]:
    """Sends what is queued; returns subject, recipient and text of each, and removes them."""

    def mails() -> list[tuple[str, str, str, str]]:
        list(send_due_mails(conn, config, keys))
        found = []
        for file in sorted((config.data / "outbox").glob("*.eml")):
            mail = message_from_bytes(file.read_bytes(), policy=policy.default)
            found.append((mail["To"], mail["Subject"], get_text(mail), get_text(mail, "html")))
            file.unlink()
        return found

    return mails


def in_italian(conn: Connection, table: str, where: str) -> None:
    conn.execute(f"UPDATE {table} SET language = 'it' WHERE {where}")


def test_a_request_reaches_every_operator_in_their_language(conn, keys, acme_1, mails):
    users.create_user(conn, keys, SHELL, "oscar@portal.example", users.OPERATOR, None)
    in_italian(conn, "users", "email = 'oscar@portal.example'")
    sender = senders.add_sender(
        conn, ALICE, acme_1, "SHOP", description="Web <shop>", reason="Orders & more", document=PDF, mail_keys=keys
    )
    first, second = mails()
    assert [first[0], second[0]] == ["olga@portal.example", "oscar@portal.example"]
    assert first[1] == "Acme asks for the sender SHOP"
    assert second[1] == "Acme chiede il mittente SHOP"
    for part in first[2:]:
        assert "alice@acme.example asks that smpp-acme-1 of Acme may send messages as SHOP." in part
        assert f"/admin/senders/{sender.id}" in part
    assert "What it is for: Orders & more" in first[2]
    assert "Supporting document: Yes" in first[2]
    assert "Web &lt;shop&gt;" in first[3]
    assert "Documento giustificativo: Sì" in second[2]


def test_without_words_it_says_so(conn, keys, acme_1, mails):
    senders.add_sender(conn, ALICE, acme_1, "SHOP", mail_keys=keys)
    ((_, _, text, html),) = mails()
    assert "What it is for: Not stated" in text
    assert "Supporting document: No" in text
    assert "Description" not in text + html


def test_what_is_refused_is_told_to_nobody(conn, keys, acme_1, mails):
    with pytest.raises(senders.SenderExists):
        senders.add_sender(conn, ALICE, acme_1, "ACME", document=PDF, mail_keys=keys)
    assert mails() == []


def test_who_asks_all_day_fills_no_mailbox(conn, keys, acme_1, mails):
    for number in range(25):
        senders.add_sender(conn, ALICE, acme_1, f"SHOP{number}", mail_keys=keys)
    assert len(mails()) == 20
    assert senders.count_pending_sender_requests(conn) == 25


@pytest.mark.parametrize(
    ("language", "approve", "subject", "sentences"),
    [
        ("en", True, "The sender SHOP was approved", ["SHOP was approved: smpp-acme-1 can send with it at once."]),
        ("en", False, "The sender SHOP was refused", ["messages of smpp-acme-1 that carry it are not accepted",
                                                      "You can ask for it again"]),
        ("it", True, "Il mittente SHOP è stato approvato", ["smpp-acme-1 può usarlo da subito"]),
        ("it", False, "Il mittente SHOP è stato rifiutato", ["non vengono accettati", "Puoi richiederlo"]),
    ],
)  # fmt: skip
def test_the_decision_reaches_the_customer_in_its_language(
    conn, keys, acme_1, mails, language, approve, subject, sentences
):
    conn.execute("UPDATE customers SET language = ? WHERE name = 'Acme'", (language,))
    senders.add_sender(conn, ALICE, acme_1, "SHOP")
    senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=approve, comment="Seen & <noted>", mail_keys=keys)
    ((recipient, mail_subject, text, html),) = mails()
    assert (recipient, mail_subject) == ("marta@acme.example", subject)
    for part in (text, html):
        for sentence in sentences:
            assert sentence in part
        assert "/accounts/smpp-acme-1/senders" in part
    assert "Seen & <noted>" in text
    assert "Seen &amp; &lt;noted&gt;" in html
    assert ("You can ask" in text or "Puoi" in text) == (not approve)


def test_without_a_comment_there_is_no_line_for_it(conn, keys, acme_1, mails):
    senders.add_sender(conn, ALICE, acme_1, "SHOP")
    senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=True, mail_keys=keys)
    ((_, _, text, html),) = mails()
    assert "Comment" not in text + html


def test_a_decision_on_something_else_is_told_to_nobody(conn, keys, acme_1, mails):
    senders.add_sender(conn, ALICE, acme_1, "SHOP")
    with pytest.raises(senders.SenderChanged):
        senders.decide_sender(conn, SHELL, acme_1, "SHOP", approve=True, revision="enable.1", mail_keys=keys)
    assert mails() == []


def test_a_request_whose_mails_can_t_be_queued_is_none(conn, keys, acme_1):
    conn.execute("CREATE TRIGGER full BEFORE INSERT ON mails BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
    with pytest.raises(Exception, match="the disk is full"):
        senders.add_sender(conn, ALICE, acme_1, "SHOP", document=PDF, mail_keys=keys)
    assert [each.address for each in senders.list_senders(conn, acme_1.id)] == ["ACME"]
    assert conn.execute("SELECT count(*) FROM sender_documents").fetchone()[0] == 0
