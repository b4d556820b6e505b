"""Documents for uploads: one of each kind."""

import base64
import struct
import zlib

from portal.demo.documents import create_pdf

PDF = create_pdf("The name ACME belongs to Acme.")
# 8 × 8 pixels, written by Chromium.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAP//////////////////////////////////////////////////////////////////"
    "////////////////////2wBDAf//////////////////////////////////////////////////////////////////////////"
    "////////////wAARCAAIAAgDASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAL/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QA"
    "FAEBAAAAAAAAAAAAAAAAAAAAAf/EABQRAQAAAAAAAAAAAAAAAAAAAAD/2gAMAwEAAhEDEQA/AJAIf//Z"
)


def create_png(width: int = 8, height: int = 8, padding: int = 0) -> bytes:
    """Create a grey picture, which `padding` makes larger by so many bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\x00" + b"\x80" * width) * height)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    if padding:
        chunks.insert(1, (b"teSt", bytes(padding - 12)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
