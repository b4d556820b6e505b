"""The files in `static/`: addressed by their content, so that browsers keep them for good, and compressed once."""

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flask import Blueprint, Response, abort, request, url_for

from portal.core import paths
from portal.web.core import access

blueprint = Blueprint("static_files", __name__)

_COMPRESSIBLE = ("text/", "application/javascript", "image/svg+xml")
# What whoever reads our style sheet and script needs, and a browser doesn't: a ninth and a fifth of what it would get.
# Of the script only comments with lines of their own, which is sure not to be within a text.
_NOTES = {
    ".css": re.compile(rb"/\*.*?\*/\s*|^\s+", re.DOTALL | re.MULTILINE),
    ".js": re.compile(rb"^[ \t]*(?:/\*.*?\*/[ \t]*|//[^\n]*)\n", re.DOTALL | re.MULTILINE),
}
_IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class _StaticFile:
    content: bytes
    compressed: bytes | None
    type: str
    digest: str


@cache
def _load_static_files() -> dict[str, _StaticFile]:
    # Read once, at the first request: they are few, small, and part of the program. Only what is here can be asked for.
    return {
        str(each.relative_to(paths.STATIC)): _read_static_file(each)
        for each in paths.STATIC.rglob("*")
        if each.is_file()
    }


def _read_static_file(file: Path) -> _StaticFile:
    content = file.read_bytes()
    if file.suffix in _NOTES and file.parent == paths.STATIC:
        content = _NOTES[file.suffix].sub(b"", content)
    mime_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    mime_type = "text/javascript" if file.suffix == ".js" else mime_type
    compressed = gzip.compress(content, 9, mtime=0) if mime_type.startswith(_COMPRESSIBLE) else None
    return _StaticFile(content, compressed, mime_type, hashlib.sha256(content).hexdigest()[:8])


@blueprint.app_template_global("static")
@cache
def static_url(name: str) -> str:
    """The address of a file in `static/`, with its content's digest."""
    return url_for("static_files.serve_static_file", filename=name, v=_load_static_files()[name].digest)


@blueprint.get("/static/<path:filename>")
@access.public_view
def serve_static_file(filename: str) -> Response:
    file = _load_static_files().get(filename) or abort(404)
    versioned = request.args.get("v") == file.digest or filename.startswith("vendor/")
    response = Response(file.content, mimetype=file.type)
    if file.compressed is not None:
        response.headers["Vary"] = "Accept-Encoding"
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            response.data = file.compressed
            response.headers["Content-Encoding"] = "gzip"
    response.headers["Cache-Control"] = _IMMUTABLE_CACHE_CONTROL if versioned else "no-cache"
    response.set_etag(file.digest)
    response.make_conditional(request)
    return response
