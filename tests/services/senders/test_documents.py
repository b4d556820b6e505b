import struct
import threading
import zlib

import pytest

from portal.core import clamd
from portal.core.db import Connection
from portal.services.common.audit import SHELL
from portal.services.senders import documents, senders
from portal.services.senders.documents import Document
from portal.services.senders.senders import Sender
from tests.clamd import EICAR, Clamd
from tests.documents import JPEG, PDF, create_png
from tests.support import wait_until

MB = 1024 * 1024
JPEG_SIZE = b"\xff\xc0\x00\x11\x08\x00\x08\x00\x08"


def resized_png(width: int, height: int) -> bytes:
    """A whole picture of 8 × 8 pixels that says it has another size, with the right checksum."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 0, 0, 0, 0)
    content = create_png()
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def resized_jpeg(width: int, height: int) -> bytes:
    assert JPEG.count(JPEG_SIZE) == 1
    return JPEG.replace(JPEG_SIZE, JPEG_SIZE[:5] + struct.pack(">HH", height, width))


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
        resized_png(0, 8),
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


@pytest.mark.parametrize("marker", [0x00, 0x01, 0x4F, *range(0xD0, 0xDA)])
def test_a_marker_without_a_length_hides_no_frame(marker):
    """What decoders take for the frame is read here as the length of a segment, behind which a small frame stands."""
    hidden = resized_jpeg(60_000, 60_000)[JPEG.index(JPEG_SIZE) : -2]
    content = JPEG[:2] + bytes([0xFF, marker]) + hidden.ljust(0xFFC0, b"\0") + JPEG[2:]
    with pytest.raises(documents.InvalidDocument):
        documents.detect_document_type(content)


def test_more_pieces_than_pictures_have_are_not_read():
    png = create_png()
    empty_chunk = struct.pack(">I4sI", 0, b"teSt", zlib.crc32(b"teSt"))
    assert documents.detect_document_type(png[:33] + empty_chunk * 19_000 + png[33:]) == "png"
    assert documents.detect_document_type(JPEG[:2] + b"\xff" * 19_000 + JPEG[2:]) == "jpeg"
    for content in (
        png[:33] + empty_chunk * 20_000 + png[33:],
        JPEG[:2] + b"\xff" * 20_000 + JPEG[2:],
        JPEG[:2] + b"\xff\xfe\x00\x02" * 20_000 + JPEG[2:],
    ):
        with pytest.raises(documents.InvalidDocument):
            documents.detect_document_type(content)


@pytest.mark.parametrize("resize", [resized_png, resized_jpeg])
@pytest.mark.parametrize(
    ("width", "height", "fits"),
    [
        (12_000, 4_166, True),
        (4_166, 12_000, True),
        (7_071, 7_071, True),
        (7_072, 7_072, False),
        (12_001, 1, False),
        (1, 12_001, False),
        (60_000, 60_000, False),
    ],
)
def test_a_picture_that_says_it_has_too_many_pixels_is_refused(resize, width, height, fits):
    content = resize(width, height)
    if fits:
        assert documents.detect_document_type(content) in ("png", "jpeg")
        return
    with pytest.raises(documents.ImageTooLarge) as refusal:
        documents.detect_document_type(content)
    assert f"has {width} × {height} pixels: at most 12000 a side, and 50 million in all" in str(refusal.value)


def test_the_largest_sizes_that_a_header_can_say_are_refused():
    with pytest.raises(documents.ImageTooLarge):
        documents.detect_document_type(resized_png(0xFFFFFFFF, 0xFFFFFFFF))
    with pytest.raises(documents.ImageTooLarge):
        documents.detect_document_type(resized_jpeg(0xFFFF, 0xFFFF))


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


# --- clamd


@pytest.fixture(params=["port", "unix socket"])
def scanner(request, tmp_path):
    with Clamd().listening(tmp_path / "clamd.ctl" if request.param == "unix socket" else None) as started:
        yield started


def test_clamd_is_given_the_whole_document(scanner):
    content = create_png(padding=5 * MB - len(create_png()))
    documents.scan_document(content, scanner.address)
    assert scanner.received == [content]


def test_what_clamd_finds_something_in_is_refused(scanner):
    with pytest.raises(documents.DocumentInfected, match="Eicar-Test-Signature"):
        documents.scan_document(PDF + EICAR, scanner.address)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"stream: OK",
        b"stream: Eicar-Test-Signature FOUND",
        b"stream: OK ERROR\0",
        b"INSTREAM size limit exceeded. ERROR\0",
        b"UNKNOWN COMMAND\0",
        b"\xff" * 5000,
    ],
    ids=range(7),
)
def test_an_answer_that_says_neither_refuses_the_document(scanner, answer):
    scanner.answer = answer
    with pytest.raises(documents.DocumentNotScanned):
        documents.scan_document(PDF, scanner.address)


def test_without_an_answer_in_time_the_document_is_refused(scanner, monkeypatch):
    monkeypatch.setattr(clamd, "_TIMEOUT_S", 0.1)
    scanner.may_answer.clear()
    with pytest.raises(documents.DocumentNotScanned):
        documents.scan_document(PDF, scanner.address)


@pytest.mark.parametrize("where", ["port", "unix socket"])
def test_a_document_is_refused_while_clamd_is_not_there(where, tmp_path, caplog):
    with Clamd().listening(tmp_path / "clamd.ctl" if where == "unix socket" else None) as gone:
        address = gone.address
    with pytest.raises(documents.DocumentNotScanned, match="Try again in a few minutes"):
        documents.scan_document(PDF, address)
    assert f"clamd at {address} can't be asked" in caplog.text


def test_two_documents_are_scanned_at_a_time_two_wait_and_others_are_refused_at_once(scanner, monkeypatch):
    monkeypatch.setattr(documents, "_SLOT_TIMEOUT_S", 60.0)
    scanner.may_answer.clear()
    ends: list[str] = []

    def scan() -> None:
        try:
            documents.scan_document(PDF, scanner.address)
        except documents.DocumentNotScanned:
            ends.append("refused")
        else:
            ends.append("scanned")

    threads = [threading.Thread(target=scan) for _ in range(5)]
    for each in threads:
        each.start()
    try:
        wait_until(lambda: len(scanner.received) == 2 and ends == ["refused"])
    finally:
        scanner.may_answer.set()
        for each in threads:
            each.join()
    assert ends == ["refused"] + ["scanned"] * 4
    assert len(scanner.received) == 4


def test_nobody_waits_long_for_documents_that_clamd_does_not_answer(scanner, monkeypatch):
    monkeypatch.setattr(documents, "_SLOT_TIMEOUT_S", 0.1)
    scanner.may_answer.clear()
    threads = [threading.Thread(target=documents.scan_document, args=[PDF, scanner.address]) for _ in range(2)]
    for each in threads:
        each.start()
    wait_until(lambda: len(scanner.received) == 2)
    for _ in range(3):
        with pytest.raises(documents.DocumentNotScanned):
            documents.scan_document(PDF, scanner.address)
    scanner.may_answer.set()
    for each in threads:
        each.join()


def test_clamd_is_asked_about_documents_alone(scanner):
    documents.scan_document(b"", scanner.address)
    documents.scan_document(PDF, "")
    with pytest.raises(documents.InvalidDocument):
        documents.scan_document(b"MZ" + PDF, scanner.address)
    with pytest.raises(documents.ImageTooLarge):
        documents.scan_document(resized_png(60_000, 60_000), scanner.address)
    assert scanner.received == []
