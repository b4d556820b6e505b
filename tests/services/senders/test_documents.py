import struct

import pytest

from portal.core.db import Connection
from portal.services.common.audit import SHELL
from portal.services.senders import documents, senders
from portal.services.senders.documents import Document
from portal.services.senders.senders import Sender
from tests.documents import JPEG, PDF, create_png

MB = 1024 * 1024


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PDF, "pdf"),
        (PDF.replace(b"%PDF-1.4", b"%PDF-2.0"), "pdf"),
        (PDF + b"\r\n" * 20, "pdf"),
        (create_png(), "png"),
        (create_png(3000, 2, padding=1000), "png"),
        (JPEG, "jpeg"),
        (JPEG + b"what a camera adds", "jpeg"),
    ],
    ids=range(7),
)
def test_what_a_document_is_its_content_says(content, kind):
    assert documents.detect_document_type(content) == kind


def resized(content: bytes, width: int, height: int) -> bytes:
    """A PNG that says it is of another size, with the right checksum."""
    return create_png(width, height)[:33] + content[33:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"%PDF-1.4",
        b"%PDF-1.4 obj startxref",
        b"<script>" + PDF,
        b"MZ" + PDF,
        PDF[:-40],
        create_png()[:-1],
        create_png()[:-12],
        create_png() + b"<?php",
        create_png().replace(b"IDAT", b"IDOT"),
        create_png()[:20] + b"\x09" + create_png()[21:],
        create_png()[:8] + create_png()[33:],
        resized(create_png(), 0, 8),
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0xFFFFFFFF) + b"IHDR",
        JPEG[:-2],
        JPEG[:60],
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9" * 40,
        JPEG.replace(b"\xff\xc0\x00\x11\x08\x00\x08", b"\xff\xc0\x00\x11\x08\x00\x00"),
        JPEG[:2] + b"\xff\xff" * 30_000,
        b"GIF89a" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x00" * 1000,
    ],
    ids=range(24),
)
def test_what_is_none_or_not_whole_is_refused(content):
    with pytest.raises(documents.InvalidDocument):
        documents.detect_document_type(content)


def test_a_document_has_five_megabytes_at_most():
    most = create_png(padding=5 * MB - len(create_png()))
    assert len(most) == 5 * MB
    assert documents.detect_document_type(most) == "png"
    with pytest.raises(documents.DocumentTooLarge, match="at most 5 MB"):
        documents.detect_document_type(most + b"x")


def document_of(sender: Sender) -> Document:
    assert sender.document is not None
    return sender.document


def test_it_is_kept_under_a_random_name_and_comes_back_whole(conn, acme_1, acme_2):
    large = create_png(padding=300_000)
    first = document_of(senders.add_sender(conn, SHELL, acme_1, "SHOP", document=large))
    second = document_of(senders.add_sender(conn, SHELL, acme_2, "SHOP", document=PDF))
    assert (first.type, first.size, second.type) == ("png", len(large), "pdf")
    assert documents.read_document(conn, first) == large
    assert documents.read_document(conn, second) == PDF
    for each, ending in ((first, ".png"), (second, ".pdf")):
        assert len(each.name.removesuffix(ending)) == 32
    assert first.name[:32] != second.name[:32]


def document_ids(conn: Connection) -> list[int]:
    return [row[0] for row in conn.execute("SELECT id FROM sender_documents ORDER BY id")]


def test_no_write_of_it_takes_the_lock_for_long(conn, connect, acme_1):
    """Others write between its pieces."""
    other, between = connect(), []

    def write() -> None:
        # In one transaction there would be only one commit, at the end.
        other.execute("UPDATE counters SET value = value WHERE name = 'message_id'")
        between.append(conn.in_transaction)

    conn.on_commit = write
    senders.add_sender(conn, SHELL, acme_1, "SHOP", document=create_png(padding=1_000_000))
    assert len(between) >= 9
    sizes = [row[0] for row in conn.execute("SELECT length(content) FROM sender_document_pieces")]
    assert max(sizes) <= 128 * 1024


def test_what_is_refused_leaves_nothing_behind(conn, acme_1):
    for address, refusal in (("ACME", senders.SenderExists), ("X", senders.InvalidSender)):
        with pytest.raises(refusal):
            senders.add_sender(conn, SHELL, acme_1, address, document=PDF)
    with pytest.raises(documents.InvalidDocument):
        senders.add_sender(conn, SHELL, acme_1, "SHOP", document=PDF[:-20])
    assert document_ids(conn) == []
    assert [each.address for each in senders.list_senders(conn, acme_1.id)] == ["ACME"]


def test_what_fails_after_it_was_written_leaves_nothing_behind(conn, acme_1):
    conn.execute("CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
    with pytest.raises(Exception, match="the disk is full"):
        senders.add_sender(conn, SHELL, acme_1, "SHOP", document=PDF)
    assert document_ids(conn) == []
    assert conn.execute("SELECT count(*) FROM sender_document_pieces").fetchone()[0] == 0
    assert [each.address for each in senders.list_senders(conn, acme_1.id)] == ["ACME"]


def test_an_account_s_documents_have_bounds(conn, acme_1, acme_2):
    senders.add_sender(conn, SHELL, acme_1, "SHOP1", document=PDF)
    # The rows of a hundred megabytes, without their content.
    conn.execute("UPDATE sender_documents SET size = ?", (100 * MB - len(PDF),))
    senders.add_sender(conn, SHELL, acme_1, "SHOP2", document=PDF)
    with pytest.raises(documents.DocumentQuotaExceeded):
        senders.add_sender(conn, SHELL, acme_1, "SHOP3", document=PDF)
    senders.add_sender(conn, SHELL, acme_2, "SHOP3", document=PDF)
    senders.add_sender(conn, SHELL, acme_1, "SHOP3")


def test_documents_that_no_sender_has_are_forgotten_after_an_hour(conn, acme_1):
    sender = senders.add_sender(conn, SHELL, acme_1, "SHOP", document=PDF)
    stray = documents.store_document(conn, acme_1.id, PDF, "pdf")
    now = conn.execute("SELECT created_at FROM sender_documents WHERE id = ?", (stray,)).fetchone()[0]
    senders.purge_removed_senders(conn, now + 3_590_000)
    assert document_ids(conn) == [document_of(sender).id, stray], "it may be one that is just being written"
    senders.purge_removed_senders(conn, now + 3_610_000)
    assert document_ids(conn) == [document_of(sender).id]
    assert documents.read_document(conn, document_of(sender)) == PDF


def test_the_document_of_a_removed_sender_goes_when_it_can_t_come_back(conn, acme_1):
    sender = senders.add_sender(conn, SHELL, acme_1, "SHOP", document=PDF)
    senders.remove_senders(conn, SHELL, acme_1, [sender.id])
    removed_at = conn.execute("SELECT removed_at FROM removed_senders").fetchone()[0]
    senders.purge_removed_senders(conn, removed_at + 14 * 60_000)
    assert document_ids(conn) == [document_of(sender).id]
    conn.execute("UPDATE sender_documents SET created_at = 0")
    senders.purge_removed_senders(conn, removed_at + 14 * 60_000)
    assert documents.read_document(conn, document_of(sender)) == PDF, "it may come back, however old it is"
    senders.purge_removed_senders(conn, removed_at + 61 * 60_000)
    assert document_ids(conn) == []
    assert conn.execute("SELECT count(*) FROM removed_senders").fetchone()[0] == 0
    assert conn.execute("SELECT count(*) FROM sender_document_pieces").fetchone()[0] == 0
