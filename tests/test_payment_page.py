"""A payment page, a small real HTTP server, and the real program: the way there, and the callback."""

import http.client
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hmac import compare_digest, digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps, loads
from pathlib import Path
from threading import Barrier
from time import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from portal.core import db
from portal.services.accounts import accounts
from portal.services.billing import orders, packs
from portal.services.billing.orders import Order
from portal.services.common.audit import SHELL
from portal.services.operations import self_check
from portal.services.people import authentication, users
from portal.web.app import create_app
from tests.support import ROOT, Cast, RunningServer, wait_until

pytestmark = pytest.mark.slow

# The one of the examples in the docs, which are tried too.
SECRET = "a secret of more than thirty characters"
DOCS = (ROOT / "docs" / "payments.md").read_text()


@dataclass
class PaymentPage:
    """Takes visitors whose address is signed right, and calls the portal back. Knows docs/payments.md, not the code."""

    portal: str = ""
    visits: list[dict[str, str]] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator[str]:
        """Listens; gives its address."""
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status = page.visit(dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True)))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/checkout?shop=portal"
        server.shutdown()
        thread.join()
        server.server_close()

    def visit(self, given: dict[str, str]) -> int:
        """Let a visitor in, or not."""
        names = ("amount", "credits", "currency", "order", "return_url", "timestamp")
        signed = "\n".join(f"{name}={given.get(name, '')}" for name in names)
        right = digest(SECRET.encode(), signed.encode(), "sha256").hex()
        if not compare_digest(right, given.get("signature", "")) or abs(time() - int(given["timestamp"])) > 900:
            return 403
        self.visits.append(given)
        return 200

    def pay(self, **changed: Any) -> tuple[int, dict[str, str]]:
        """Tell the portal that the last visitor has paid."""
        visit = self.visits[-1]
        paid = {
            "order": visit["order"],
            "amount": int(visit["amount"]),
            "currency": visit["currency"],
            "status": "paid",
            "payment": "pay-1",
        }
        return self.call_back(dumps(paid | changed).encode())

    def call_back(
        self,
        body: bytes,
        message_id: str = "msg-1",
        *,
        timestamp: int | None = None,
        key: str = SECRET,
        signature: str | None = None,
    ) -> tuple[int, dict[str, str]]:
        """Post a callback, with the right signature if none is given; gives the status and what was answered."""
        at = int(time()) if timestamp is None else timestamp
        right = b64encode(digest(key.encode(), f"{message_id}.{at}.".encode() + body, "sha256")).decode()
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(at),
            "webhook-signature": f"v1,{right}" if signature is None else signature,
        }
        status, _headers, text = ask(self.portal, "/payments/callback", body, headers)
        return status, loads(text) if text.startswith(b"{") else {}


@dataclass(frozen=True)
class Scene:
    server: RunningServer
    page: PaymentPage
    order: Order
    conn: db.Connection
    cookie: str

    def follow_pay_now(self) -> int:
        """What a browser does: ask for the way, and go where it leads. Gives the payment page's answer."""
        path = f"/accounts/{self.order.account}/orders/{self.order.number}/pay"
        status, headers, _text = ask(self.server.url, path, headers={"cookie": self.cookie})
        assert status == 302
        there = urlsplit(headers["location"])
        return ask(f"http://{there.netloc}", f"{there.path}?{there.query}")[0]

    def order_now(self) -> Order:
        return orders.get_order_by_number(self.conn, self.order.number)

    @property
    def balance(self) -> int:
        return accounts.get_account(self.conn, self.order.account).balance

    @property
    def purchases(self) -> int:
        return int(self.conn.execute("SELECT count(*) FROM movements WHERE kind = 'purchase'").fetchone()[0])


def ask(
    server: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request, of which nothing is followed: status, headers and content."""
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=10)
    try:
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.fixture
def scene(
    serve_alone: Callable[..., RunningServer], conn: db.Connection, cast: Cast, config: Any, keys: Any
) -> Iterator[Scene]:
    """The portal with a payment page, an order of Acme's, and Alice in a browser."""
    page = PaymentPage()
    with page.open() as address:
        server = serve_alone("web", PORTAL_PAYMENTS_CHECKOUT_URL=address, PORTAL_PAYMENTS_SECRET=SECRET)
        page.portal = server.url
        account = accounts.get_account(conn, cast.smpp_acme_1.name)
        order = orders.place_order(conn, SHELL, account, packs.get_pack(conn, 100_000))
        token = authentication.start_login_session(
            conn, users.get_user_by_email(conn, cast.alice.email), "127.0.0.1", "a test"
        )
        app = create_app(config, keys)
        cookie = app.session_interface.get_signing_serializer(app).dumps({"_user_id": token, "_fresh": True})  # type: ignore[attr-defined]
        yield Scene(server, page, order, conn, f"portal_session={cookie}")


def test_a_customer_goes_to_the_payment_page_and_the_credits_arrive(scene: Scene) -> None:
    assert scene.follow_pay_now() == 200
    (visit,) = scene.page.visits
    assert visit["shop"] == "portal"
    assert (visit["order"], visit["amount"], visit["currency"]) == (scene.order.number, "700", "EUR")
    back = urlsplit(visit["return_url"])
    assert f"{back.scheme}://{back.netloc}" == scene.server.url
    assert scene.page.pay() == (200, {"result": "credited"})
    assert (scene.order_now().status, scene.balance) == ("paid", 1_100_000)
    # Where the page sends the customer back to, the order says so.
    status, _headers, text = ask(scene.server.url, back.path, headers={"cookie": scene.cookie})
    assert (status, b"pay-1" in text) == (200, True)
    # And the mail is on its way by itself.
    outbox = scene.server.data / "outbox"
    assert wait_until(lambda: [each for each in texts(outbox) if f"Order {scene.order.number} is paid" in each])
    assert self_check.list_problem_texts(scene.conn) == []


def texts(outbox: Path) -> list[str]:
    return [each.read_text() for each in outbox.glob("*.eml")] if outbox.exists() else []


def test_a_changed_address_is_not_taken_by_the_payment_page(scene: Scene) -> None:
    scene.follow_pay_now()
    for name, value in (("amount", "1"), ("order", "2026-99999"), ("return_url", "https://evil.example/")):
        assert scene.page.visit(scene.page.visits[0] | {name: value}) == 403


def test_a_replay_and_what_is_not_signed_right_change_nothing(scene: Scene) -> None:
    scene.follow_pay_now()
    paid = dumps({"order": scene.order.number, "amount": 700, "currency": "EUR", "status": "paid", "payment": "p"})
    body, page = paid.encode(), scene.page
    assert page.call_back(body, key="another secret of thirty characters")[0] == 401
    assert page.call_back(body, timestamp=int(time()) - 310)[0] == 401
    assert page.call_back(body, timestamp=int(time()) + 310)[0] == 401
    assert page.call_back(body, signature="")[0] == 400
    assert page.call_back(b" " * 20_000)[0] == 413
    assert page.pay(amount=1)[0] == 422
    assert page.pay(currency="USD")[0] == 422
    assert (scene.order_now().status, scene.balance) == ("open", 1_000_000)
    results = [page.call_back(body, "msg-2")[1]["result"] for _attempt in range(3)]
    assert results == ["credited", "repeated", "repeated"]
    assert page.call_back(body, "msg-3") == (200, {"result": "paid before"})
    assert (scene.purchases, scene.balance) == (1, 1_100_000)


@pytest.mark.parametrize("ids", ["the same", "different"])
def test_twenty_callbacks_at_once_credit_once(scene: Scene, ids: str) -> None:
    scene.follow_pay_now()
    together = Barrier(20)
    body = dumps({"order": scene.order.number, "amount": 700, "currency": "EUR", "status": "paid", "payment": "p"})

    def call(number: int) -> tuple[int, dict[str, str]]:
        together.wait()
        return scene.page.call_back(body.encode(), "msg" if ids == "the same" else f"msg-{number}")

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(call, range(20)))
    assert [status for status, _answer in answers] == [200] * 20
    assert sorted(answer["result"] for _status, answer in answers).count("credited") == 1
    assert (scene.purchases, scene.balance) == (1, 1_100_000)
    assert self_check.list_problem_texts(scene.conn) == []


# --- docs/payments.md


def example(language: str) -> str:
    """The first block of a language."""
    blocks = (each.partition("\n") for each in DOCS.split("```")[1::2])
    return next(text for named, _newline, text in blocks if named == language)


def test_the_documented_signature_is_right() -> None:
    signed = example("").rstrip("\n")
    assert f"`{digest(SECRET.encode(), signed.encode(), 'sha256').hex()}`" in DOCS


def test_the_documented_python_works(scene: Scene) -> None:
    names: dict[str, Any] = {}
    exec(example("python"), names)  # the docs' own, for integrators to copy
    scene.follow_pay_now()
    visit = scene.page.visits[0]
    assert names["is_from_the_portal"](visit)
    assert not names["is_from_the_portal"](visit | {"amount": "1"})
    assert not names["is_from_the_portal"](visit | {"timestamp": "1800000000"})
    tell = (scene.server.url, visit["order"], int(visit["amount"]), visit["currency"], "pay-9")
    assert [names["tell"](*tell)["result"] for _attempt in range(2)] == ["credited", "repeated"]
    assert (scene.purchases, scene.order_now().payment) == (1, "pay-9")


def test_the_documented_shell_works(scene: Scene) -> None:
    script = example("sh").replace("2026-00042", scene.order.number).replace("http://127.0.0.1:8000", scene.server.url)
    assert scene.order.number in script
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20)
    assert '{"result":"credited"}' in done.stdout, done.stderr
    assert scene.order_now().status == "paid"
