import struct

import pytest

from portal.services.common.audit import SHELL
from portal.services.senders import documents, senders
from tests.documents import JPEG, PDF, png

MB = 1024 * 1024


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PDF, "pdf"),
        (PDF.replace(b"%PDF-1.4", b"%PDF-2.0"), "pdf"),
        (PDF + b"\r\n" * 20, "pdf"),
        (png(), "png"),
        (png(3000, 2, padding=1000), "png"),
        (JPEG, "jpeg"),
        (JPEG + b"what a camera adds", "jpeg"),
    ],
    ids=range(7),
)
def test_what_a_document_is_its_content_says(content, kind):
    assert documents.type_of(content) == kind


def resized(content, width, height):
    """A PNG that says it is of another size, with the right checksum."""
    return png(width, height)[:33] + content[33:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"%PDF-1.4",
        b"%PDF-1.4 obj startxref",
        b"<script>" + PDF,
        b"MZ" + PDF,
        PDF[:-40],
        png()[:-1],
        png()[:-12],
        png() + b"<?php",
        png().replace(b"IDAT", b"IDOT"),
        png()[:20] + b"\x09" + png()[21:],
        png()[:8] + png()[33:],
        resized(png(), 0, 8),
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
    with pytest.raises(documents.NotADocument):
        documents.type_of(content)


def test_a_document_has_five_megabytes_at_most():
    most = png(padding=5 * MB - len(png()))
    assert len(most) == 5 * MB
    assert documents.type_of(most) == "png"
    with pytest.raises(documents.DocumentTooLarge, match="at most 5 MB"):
        documents.type_of(most + b"x")


def test_it_is_kept_under_a_random_name_and_comes_back_whole(conn, acme_1, acme_2):
    large = png(padding=300_000)
    first = senders.add(conn, SHELL, acme_1, "SHOP", document=large).document
    second = senders.add(conn, SHELL, acme_2, "SHOP", document=PDF).document
    assert (first.type, first.size, second.type) == ("png", len(large), "pdf")
    assert documents.content(conn, first) == large
    assert documents.content(conn, second) == PDF
    for each, ending in ((first, ".png"), (second, ".pdf")):
        assert len(each.name.removesuffix(ending)) == 32
    assert first.name[:32] != second.name[:32]


def kept(conn):
    return [row[0] for row in conn.execute("SELECT id FROM sender_documents ORDER BY id")]


def test_no_write_of_it_takes_the_lock_for_long(conn, connect, acme_1):
    """Others write between its pieces."""
    other, between = connect(), []

    def write():
        # In one transaction there would be only one commit, at the end.
        other.execute("UPDATE counters SET value = value WHERE name = 'message_id'")
        between.append(conn.in_transaction)

    conn.on_commit = write
    senders.add(conn, SHELL, acme_1, "SHOP", document=png(padding=1_000_000))
    assert len(between) >= 9
    sizes = [row[0] for row in conn.execute("SELECT length(content) FROM sender_document_pieces")]
    assert max(sizes) <= 128 * 1024


def test_what_is_refused_leaves_nothing_behind(conn, acme_1):
    for address, refusal in (("ACME", senders.SenderExists), ("X", senders.InvalidSender)):
        with pytest.raises(refusal):
            senders.add(conn, SHELL, acme_1, address, document=PDF)
    with pytest.raises(documents.NotADocument):
        senders.add(conn, SHELL, acme_1, "SHOP", document=PDF[:-20])
    assert kept(conn) == []
    assert [each.address for each in senders.of_account(conn, acme_1.id)] == ["ACME"]


def test_what_fails_after_it_was_written_leaves_nothing_behind(conn, acme_1):
    def fails(sender):
        raise RuntimeError("the mail could not be queued, say")

    with pytest.raises(RuntimeError):
        senders.add(conn, SHELL, acme_1, "SHOP", document=PDF, then=fails)
    assert kept(conn) == []
    assert conn.execute("SELECT count(*) FROM sender_document_pieces").fetchone()[0] == 0
    assert [each.address for each in senders.of_account(conn, acme_1.id)] == ["ACME"]


def test_an_account_s_documents_have_bounds(conn, acme_1, acme_2, monkeypatch):
    monkeypatch.setattr(documents, "_MOST_OF_ACCOUNT", 2 * len(PDF))
    senders.add(conn, SHELL, acme_1, "SHOP1", document=PDF)
    senders.add(conn, SHELL, acme_1, "SHOP2", document=PDF)
    with pytest.raises(documents.DocumentsFull):
        senders.add(conn, SHELL, acme_1, "SHOP3", document=PDF)
    senders.add(conn, SHELL, acme_2, "SHOP3", document=PDF)
    senders.add(conn, SHELL, acme_1, "SHOP3")


def test_documents_that_no_sender_has_are_forgotten_after_an_hour(conn, acme_1):
    sender = senders.add(conn, SHELL, acme_1, "SHOP", document=PDF)
    stray = documents.keep(conn, acme_1.id, PDF, "pdf")
    now = conn.execute("SELECT created_at FROM sender_documents WHERE id = ?", (stray,)).fetchone()[0]
    senders.purge(conn, now + 3_590_000)
    assert kept(conn) == [sender.document.id, stray], "it may be one that is just being written"
    senders.purge(conn, now + 3_610_000)
    assert kept(conn) == [sender.document.id]
    assert documents.content(conn, sender.document) == PDF


def test_the_document_of_a_removed_sender_goes_when_it_can_t_come_back(conn, acme_1):
    sender = senders.add(conn, SHELL, acme_1, "SHOP", document=PDF)
    senders.remove(conn, SHELL, acme_1, [sender.id])
    removed_at = conn.execute("SELECT removed_at FROM removed_senders").fetchone()[0]
    senders.purge(conn, removed_at + 14 * 60_000)
    assert kept(conn) == [sender.document.id]
    conn.execute("UPDATE sender_documents SET created_at = 0")
    senders.purge(conn, removed_at + 14 * 60_000)
    assert documents.content(conn, sender.document) == PDF, "it may come back, however old it is"
    senders.purge(conn, removed_at + 61 * 60_000)
    assert kept(conn) == []
    assert conn.execute("SELECT count(*) FROM removed_senders").fetchone()[0] == 0
    assert conn.execute("SELECT count(*) FROM sender_document_pieces").fetchone()[0] == 0
