"""Files of the pages: kept for good, compressed once, and nothing but them."""

import gzip
import re

import pytest

from tests.support import ROOT
from tests.web.conftest import Browser

IMMUTABLE = "public, max-age=31536000, immutable"


def test_addressed_by_content_they_are_kept_for_good(browser: Browser) -> None:
    found = re.search(r'href="(/static/app\.css\?v=\w+)"', browser.get("/login").text)
    assert found
    answer = browser.get(found[1])
    assert answer.status_code == 200
    assert answer.mimetype == "text/css"
    assert answer.headers["Cache-Control"] == IMMUTABLE


@pytest.mark.parametrize("address", ["/static/app.css", "/static/app.css?v=old"])
def test_otherwise_they_are_asked_for_again(browser: Browser, address: str) -> None:
    answer = browser.get(address)
    assert answer.headers["Cache-Control"] == "no-cache"
    again = browser.get(address, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_files_of_others_are_named_by_version(browser: Browser) -> None:
    names = [each.name for each in (ROOT / "static" / "vendor").iterdir() if each.suffix in (".js", ".css")]
    assert names
    for name in names:
        assert re.search(r"-\d+\.\d+\.\d+\.", name)
        assert browser.get(f"/static/vendor/{name}").headers["Cache-Control"] == IMMUTABLE


def test_they_are_compressed_for_who_can_read_that(browser: Browser) -> None:
    plain = browser.get("/static/app.js")
    packed = browser.get("/static/app.js", headers={"Accept-Encoding": "gzip, br"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert "Accept-Encoding" in plain.headers["Vary"]


def test_the_script_comes_without_the_lines_that_are_comments_and_with_all_others(browser: Browser) -> None:
    served, written = browser.get("/static/app.js").text, (ROOT / "static" / "app.js").read_text()
    kept, is_comment = [], False
    for line in written.splitlines():
        is_comment = is_comment or line.lstrip().startswith("/*")
        if not is_comment and not line.lstrip().startswith("//"):
            kept.append(line)
        is_comment = is_comment and not line.endswith("*/")
    assert served.splitlines() == kept
    assert len(served) < 0.9 * len(written)


def test_the_style_sheet_comes_without_comments_and_with_each_rule(browser: Browser) -> None:
    served, written = browser.get("/static/app.css").text, (ROOT / "static" / "app.css").read_text()
    assert "/*" not in served
    assert not re.search(r"^\s", served, re.MULTILINE)
    assert served.split() == re.sub(r"/\*.*?\*/", "", written, flags=re.DOTALL).split()
    # Others' licences stay.
    pico = next((ROOT / "static" / "vendor").glob("pico-*.css"))
    assert browser.get(f"/static/vendor/{pico.name}").data == pico.read_bytes()


@pytest.mark.parametrize(
    "address", ["/static/none.css", "/static/../app.py", "/static/%2e%2e/app.py", "/static/vendor", "/static/"]
)
def test_nothing_else_can_be_asked_for(browser: Browser, address: str) -> None:
    assert browser.get(address).status_code == 404


def test_they_set_no_cookie(browser: Browser) -> None:
    assert "Set-Cookie" not in browser.get("/static/app.css").headers
