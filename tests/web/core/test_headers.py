"""The headers of every answer, and no code in templates that they would forbid."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask

from portal.core.config import Config, WebSettings
from tests.support import ROOT, Cast, Person
from tests.web.conftest import Browser
from tests.web.core.conftest import HTTPS, browser_of
from tests.web.html import find_html_errors

PAGES = ("/login", "/enrol/invented", "/no-such-page", "/profile", "/accounts/smpp-acme-1", "/static/app.css")


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("htmx", [False, True])
def test_every_answer_carries_the_headers(
    client: Callable[[Person], Browser], cast: Cast, path: str, htmx: bool
) -> None:
    headers = client(cast.alice).get(path, htmx=htmx).headers
    policy = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == policy["connect-src"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] in ("same-origin", "strict-origin")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Strict-Transport-Security" not in headers
    assert "Server" not in headers


@pytest.mark.parametrize("path", [each for each in PAGES if not each.startswith("/static/")])
def test_pages_are_kept_by_no_cache(client: Callable[[Person], Browser], cast: Cast, path: str) -> None:
    answer = client(cast.alice).get(path)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "HX-Request" in answer.headers["Vary"]


@pytest.mark.parametrize(("subdomains", "ending"), [("off", ""), ("on", "; includeSubDomains")])
def test_https_is_insisted_on_where_it_is_spoken(
    make_app: Callable[[Config], Flask], config: Config, subdomains: str, ending: str
) -> None:
    web = WebSettings(public_url=HTTPS, hsts_subdomains=subdomains)
    browser = browser_of(make_app(replace(config, web=web)))
    for path in ("/login", "/no-such-page", "/static/app.css"):
        headers = browser.get(path).headers
        assert headers["Strict-Transport-Security"] == f"max-age=31536000{ending}"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    plain = browser_of(make_app(replace(config, web=replace(web, public_url="http://portal.example"))))
    assert "Strict-Transport-Security" not in plain.get("/login").headers


def test_no_template_has_inline_code() -> None:
    """The pages that tests open are looked at as they come; this looks at what no test happens to reach, too."""
    for file in (ROOT / "templates").rglob("*.html"):
        if "mail" not in file.parts:
            text = file.read_text()
            assert " style=" not in text, file
            assert " hx-on" not in text, file
            assert "<style" not in text, file
            assert not [each for each in (" onclick=", " onload=", " onsubmit=", " onchange=") if each in text], file


def test_the_eye_sees_what_it_should() -> None:
    page = "<!doctype html><html><head><title>x</title></head><body>{}</body></html>"
    assert find_html_errors(page.format("<p>fine")) == []
    for wrong in (
        "<div>",
        "<b><i></b></i>",
        '<p id="a"></p><p id="a"></p>',
        '<p style="color:red"></p>',
        "<p onclick=x></p>",
        "<script>x</script>",
        '<label for="nowhere">x</label>',
        '<form method="post"></form>',
    ):
        assert find_html_errors(page.format(wrong)), wrong
