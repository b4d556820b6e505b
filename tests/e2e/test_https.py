"""Behind a proxy that speaks TLS, at the root of its host and under a path: browsers take the cookie, and keep it."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from portal.smsc.admission.tls import ensure_certificate
from tests.support import DEADLINE_S, Cast, RunningServer, find_free_port

# On Linux all of 127/8 is this machine's: so the proxy can be told from those who see whether the portal is ready.
PROXY_ADDRESS = "127.0.0.2"


@contextmanager
def run_proxy(server: RunningServer, port: int, prefix: str) -> Iterator[None]:
    """A proxy as docs/operating.md tells to set one up."""

    class Proxy(BaseHTTPRequestHandler):
        timeout = DEADLINE_S

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            portal = HTTPConnection(urlsplit(server.url).netloc, timeout=DEADLINE_S, source_address=(PROXY_ADDRESS, 0))
            forwarded = {"For": self.client_address[0], "Proto": "https", "Prefix": prefix}
            headers = dict(self.headers) | {f"X-Forwarded-{name}": value for name, value in forwarded.items()}
            portal.request(self.command, self.path.removeprefix(prefix), body, headers)
            answer = portal.getresponse()
            content = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            portal.close()

        do_GET = do_POST = pass_on

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ensure_certificate(server.data, "portal.test"))
    with ThreadingHTTPServer(("127.0.0.1", port), Proxy) as proxy:
        # The handshake is for the connection's own thread: browsers open some that they may never use.
        proxy.socket = context.wrap_socket(proxy.socket, server_side=True, do_handshake_on_connect=False)
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            proxy.shutdown()


@pytest.mark.parametrize(("prefix", "name_prefix"), [("", "__Host-"), ("/sms", "__Secure-")])
def test_a_browser_logs_in(
    browser: Browser, serve_alone: Callable[..., RunningServer], cast: Cast, prefix: str, name_prefix: str
) -> None:
    port = find_free_port()
    url = f"https://portal.test:{port}{prefix}"
    server = serve_alone("web", PORTAL_WEB_PUBLIC_URL=url, PORTAL_WEB_TRUSTED_PROXIES=PROXY_ADDRESS)
    with run_proxy(server, port, prefix), browser.new_context(ignore_https_errors=True) as context:
        context.set_default_timeout(DEADLINE_S * 1000)
        page = context.new_page()
        page.goto(f"{url}/login")
        page.get_by_label("E-mail address").fill(cast.alice.email)
        page.get_by_label("Password").fill(cast.alice.password)
        page.get_by_role("button", name="Log in").click()
        page.get_by_label("Code", exact=True).fill(cast.alice.totp_code())
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(lambda address: address.startswith(url) and "/login" not in address)
        page.goto(f"{url}/profile")
        expect(page.get_by_text(cast.alice.email).first).to_be_visible()
        cookies = context.cookies()
        # The session's, and that of known browsers.
        names = {each["name"] for each in cookies}
        assert names == {f"{name_prefix}portal_browser", f"{name_prefix}portal_session"}
        for cookie in cookies:
            assert (cookie["domain"], cookie["path"]) == ("portal.test", prefix or "/")
            assert cookie["secure"]
            assert cookie["httpOnly"]
        # Nobody else on the host is sent it.
        assert len(context.cookies(f"https://portal.test:{port}/other")) == (0 if prefix else 2)
