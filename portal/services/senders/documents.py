"""Supporting documents: what they may be, recognised by their content, and where they are kept.

They lie in the database: a document is there if and only if what names it is, and one file is the whole backup.
"""

import logging
import secrets
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from portal.core import clamd
from portal.core.clock import HOUR_MS, now_ms
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common.errors import Refused

_log = logging.getLogger(__name__)

PDF, PNG, JPEG = "pdf", "png", "jpeg"
MEDIA_TYPES = {PDF: "application/pdf", PNG: "image/png", JPEG: "image/jpeg"}
MAX_DOCUMENT_BYTES = 5 * 1024 * 1024
# What the documents of one account may take up, those of senders that were just removed too.
_MAX_ACCOUNT_BYTES = 20 * MAX_DOCUMENT_BYTES
_MB = 1024 * 1024
# A transaction with so much takes a few milliseconds; one with all of a document takes up to a quarter of a second, in
# which the SMPP server could write nothing.
_PIECE_BYTES = 128 * 1024
# Between two pieces, so that whoever waits for the lock gets it: they try every half a millisecond
# (`db.write_transaction`).
_WRITE_PAUSE_S = 0.002
_UPLOAD_GRACE_MS = HOUR_MS
# A few bytes can say that a picture has billions of pixels, for which whoever opens it needs gigabytes.
_MAX_SIDE_PIXELS = 12_000
_MAX_PIXELS = 50_000_000
# Pieces of a picture that are looked at. Cameras and programs make a thousand of 5 MB; empty ones would take a second.
_MAX_PIECES = 20_000
# Threads that may wait for clamd, and those with the ones that wait for their turn: where it hangs, the others still
# answer pages.
_scan_slots = threading.BoundedSemaphore(2)
_scan_places = threading.BoundedSemaphore(4)
_SLOT_TIMEOUT_S = 5.0
# By the address.
_clamd_faults: dict[str, str] = {}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# ISO/IEC 10918-1, table B.1: frames (SOFn), but for DHT, JPG and DAC among them; and markers of segments, which have a
# length. Those without one (RSTn, TEM, SOI, EOI) come in front of a scan only where another reader sees another image.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SEGMENTS = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDA))
_JPEG_SCAN, _JPEG_END = 0xDA, b"\xff\xd9"


class InvalidDocument(Refused, field="document"):
    sentence = N_("This file isn't a PDF, PNG or JPEG, or it isn't whole. What counts is what it holds, not its name.")


class DocumentTooLarge(Refused, field="document"):
    sentence = N_("The document is too large: at most %(most)s MB.")


class DocumentQuotaExceeded(Refused, field="document"):
    sentence = N_("The documents of this account take up all of their %(most)s MB. Remove senders that aren't needed.")


class ImageTooLarge(Refused, field="document"):
    sentence = N_(
        "The picture has %(width)s × %(height)s pixels: at most %(side)s a side, and %(most)s million in all. Make it"
        " smaller."
    )


class DocumentInfected(Refused, field="document"):
    sentence = N_("The virus scanner has found %(found)s in this document. It isn't kept.")


class DocumentNotScanned(Refused, field="document"):
    sentence = N_("The document can't be scanned for viruses at the moment. Try again in a few minutes.")


@dataclass(frozen=True, slots=True)
class Document:
    """What is known of one beside its content. `name` is random, with the ending of its type; `size` in bytes."""

    id: int
    name: str
    type: str
    size: int


def detect_document_type(content: bytes) -> str:
    """PDF, PNG or JPEG, by the content's beginning, structure and end.

    Raises:
        DocumentTooLarge, InvalidDocument, ImageTooLarge
    """
    if len(content) > MAX_DOCUMENT_BYTES:
        raise DocumentTooLarge(most=MAX_DOCUMENT_BYTES // _MB)
    for kind, matches in ((PDF, _is_pdf), (PNG, _is_png), (JPEG, _is_jpeg)):
        if matches(content):
            return kind
    raise InvalidDocument()


def _is_pdf(content: bytes) -> bool:
    # ISO 32000-1, 7.5. Readers take a header further down too; then it could be something else as well.
    return (
        content[:7] in (b"%PDF-1.", b"%PDF-2.")
        and b"startxref" in content[-2048:]
        and b"%%EOF" in content[-1024:]
        and b" obj" in content
    )


def _is_png(content: bytes) -> bool:
    # ISO/IEC 15948, 5: chunks with their checksums, from IHDR to IEND, and nothing behind.
    if not content.startswith(_PNG_SIGNATURE):
        return False
    offset = len(_PNG_SIGNATURE)
    chunk_types: set[bytes] = set()
    for _ in range(_MAX_PIECES):
        if offset + 12 > len(content):
            return False
        length, kind = struct.unpack_from(">I4s", content, offset)
        data_end = offset + 8 + length
        if data_end + 4 > len(content):
            return False
        (checksum,) = struct.unpack_from(">I", content, data_end)
        if zlib.crc32(memoryview(content)[offset + 4 : data_end]) != checksum:
            return False
        if not chunk_types:
            width, height = struct.unpack_from(">II", content, offset + 8) if length == 13 else (0, 0)
            if kind != b"IHDR" or not _has_pixels(width, height):
                return False
        chunk_types.add(kind)
        offset = data_end + 4
        if kind == b"IEND":
            return b"IDAT" in chunk_types and offset == len(content)
    return False


def _is_jpeg(content: bytes) -> bool:
    # ISO/IEC 10918-1, B.1: segments with a frame among them, up to the scan. Cameras put things of their own behind the
    # image's end, so that it need not be the file's.
    if not content.startswith(b"\xff\xd8\xff"):
        return False
    offset, has_frame = 2, False
    for _ in range(_MAX_PIECES):
        if offset + 4 > len(content) or content[offset] != 0xFF:
            return False
        marker = content[offset + 1]
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        if marker not in _JPEG_SEGMENTS:
            return False
        (length,) = struct.unpack_from(">H", content, offset + 2)
        if length < 2 or offset + 2 + length > len(content):
            return False
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", content, offset + 5) if length >= 11 else (0, 0)
            if not _has_pixels(width, height):
                return False
            has_frame = True
        offset += 2 + length
        if marker == _JPEG_SCAN:
            return has_frame and content.find(_JPEG_END, offset) > offset
    return False


def _has_pixels(width: int, height: int) -> bool:
    """Whether a picture has any; raises ImageTooLarge where it has too many."""
    if max(width, height) > _MAX_SIDE_PIXELS or width * height > _MAX_PIXELS:
        most = _MAX_PIXELS // 1_000_000
        raise ImageTooLarge(width=width, height=height, side=_MAX_SIDE_PIXELS, most=most)
    return width > 0 and height > 0


def scan_document(content: bytes, clamd_address: str) -> None:
    """Refuse a document in which clamd finds something, or that it can't be asked about.

    It waits for clamd, for up to half a minute, and for others' documents before: no transaction may be open.

    Args:
        content: of the document; empty: there is none.
        clamd_address: as in the setting `[documents] clamd`; empty: nothing scans documents.

    Raises:
        DocumentTooLarge, InvalidDocument, ImageTooLarge: it is none, and clamd isn't asked.
        DocumentInfected, DocumentNotScanned
    """
    if not content or not clamd_address:
        return
    detect_document_type(content)
    with _wait_for_slot():
        try:
            found = clamd.scan_content(clamd_address, content)
        except OSError as error:
            _log.error("a document was refused, for clamd at %s can't be asked: %s", clamd_address, error)
            raise DocumentNotScanned() from None
    if found:
        _log.warning("a document was refused: clamd has found %s", found)
        raise DocumentInfected(found=found)


def check_clamd(address: str) -> None:
    """Ask clamd whether it is there, and log where that is another answer than the last one."""
    try:
        clamd.ping(address)
        fault = ""
    except OSError as error:
        fault = error.strerror or str(error)
    before = _clamd_faults.get(address, "")
    if fault and not before:
        _log.error("clamd at %s doesn't answer, so documents are refused ([documents] clamd): %s", address, fault)
    elif before and not fault:
        _log.info("clamd at %s answers again", address)
    _clamd_faults[address] = fault


def get_clamd_fault(address: str) -> str:
    """Why clamd didn't answer this process when it was last asked (`check_clamd`); empty: it did, or wasn't asked."""
    return _clamd_faults.get(address, "")


@contextmanager
def _wait_for_slot() -> Iterator[None]:
    if not _scan_places.acquire(blocking=False):
        raise DocumentNotScanned()
    try:
        if not _scan_slots.acquire(timeout=_SLOT_TIMEOUT_S):
            raise DocumentNotScanned()
        try:
            yield
        finally:
            _scan_slots.release()
    finally:
        _scan_places.release()


def store_document(conn: sqlite3.Connection, account_id: int, content: bytes, kind: str) -> int:
    """Keep a document of an account; returns its id.

    It is written in several transactions, so that nobody waits long. What is not given to a sender within an hour, or
    after that has none any more, is forgotten by `purge_unreferenced_documents`.

    Args:
        content: as `detect_document_type` has taken it.

    Raises:
        DocumentQuotaExceeded
    """
    with write_transaction(conn):
        query, size = "SELECT total(size) FROM sender_documents WHERE account_id = ?", len(content)
        if conn.execute(query, (account_id,)).fetchone()[0] + size > _MAX_ACCOUNT_BYTES:
            raise DocumentQuotaExceeded(most=_MAX_ACCOUNT_BYTES // _MB)
        # Nothing of what the file was called is kept: it comes from outside, and is shown to operators.
        name = f"{secrets.token_hex(16)}.{kind}"
        document_id = insert_row(
            conn, "sender_documents", account_id=account_id, name=name, type=kind, size=size, created_at=now_ms()
        )
    for number, start in enumerate(range(0, len(content), _PIECE_BYTES)):
        piece = content[start : start + _PIECE_BYTES]
        with write_transaction(conn):
            insert_row(conn, "sender_document_pieces", document_id=document_id, number=number, content=piece)
        time.sleep(_WRITE_PAUSE_S)
    return document_id


def read_document(conn: sqlite3.Connection, document: Document) -> bytes | None:
    """All of a document; None where it has been forgotten meanwhile."""
    query = "SELECT content FROM sender_document_pieces WHERE document_id = ? ORDER BY number"
    data = b"".join(piece for (piece,) in conn.execute(query, (document.id,)))
    return data if len(data) == document.size else None


def delete_document(conn: sqlite3.Connection, document_id: int) -> None:
    """Delete a document that no sender has, a piece at a time."""
    pieces = "SELECT rowid FROM sender_document_pieces WHERE document_id = ?"
    for (row,) in conn.execute(pieces, (document_id,)).fetchall():
        with write_transaction(conn):
            conn.execute("DELETE FROM sender_document_pieces WHERE rowid = ?", (row,))
        time.sleep(_WRITE_PAUSE_S)
    with write_transaction(conn):
        conn.execute("DELETE FROM sender_documents WHERE id = ?", (document_id,))


_SELECT_UNREFERENCED = """
SELECT id FROM sender_documents AS document WHERE created_at < ?
AND NOT EXISTS (SELECT 1 FROM senders WHERE document_id = document.id)
AND NOT EXISTS (SELECT 1 FROM removed_senders WHERE document_id = document.id)
"""


def purge_unreferenced_documents(conn: sqlite3.Connection, now: int) -> None:
    """Delete the documents that no sender has, and that aren't just being written (`now` in milliseconds)."""
    for (document_id,) in conn.execute(_SELECT_UNREFERENCED, (now - _UPLOAD_GRACE_MS,)).fetchall():
        delete_document(conn, document_id)
