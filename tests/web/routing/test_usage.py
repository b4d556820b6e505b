"""What went by routes in a month, and what customers have used, as pages and files."""

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from portal.core import db
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.messages import outcomes, sending
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.sending import AcceptedMessage
from portal.services.routing import routes
from portal.services.routing.route_usage import RouteUse
from portal.services.routing.routes import RouteTexts
from portal.services.statistics import months, rollup
from tests.services.submitting import store_messages
from tests.services.upstreams.waiting import add_upstream
from tests.support import Cast, Person, prepare_submit
from tests.web.acting import extract_text
from tests.web.conftest import Browser

USAGE = "/admin/routes/usage"


@pytest.fixture
def sent(conn: db.Connection, keys: Keys, cast: Cast) -> list[int]:
    """Three messages by route 1, whose parts are bought for 0.5 credits, and one by none; the first is delivered."""
    upstream = add_upstream(conn, keys)
    routes.add_route(conn, SHELL, RouteTexts("carrier", country="IT", buying_price="0.5", replace_sender="48484"))
    submits = [prepare_submit(conn, cast.smpp_acme_1.id, destination=f"39333123456{each}") for each in range(3)]
    submits.append(prepare_submit(conn, cast.smpp_acme_1.id, destination="33612345678"))
    for each in submits:
        each.upstream = upstream.id
    message_ids = store_messages(conn, submits)
    uses = [RouteUse(1, "IT", each.parts, each.price, 500, "48484") for each in submits[:3]]
    uses.append(RouteUse(0, "FR", submits[3].parts, submits[3].price, None, None))
    sending.store_accepted_messages(
        conn,
        [
            AcceptedMessage(upstream.id, message_id, f"id {message_id}", 1, now_ms(), None, use)
            for message_id, use in zip(message_ids, uses, strict=True)
        ],
    )
    outcomes.finish_messages(conn, [MessageOutcome(message_ids[0], DELIVERED, 0, now_ms())])
    rollup.roll_up_all(conn)
    return message_ids


def read_csv(answer: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.text), delimiter=";"))


def test_a_month_is_shown_by_route_and_country_with_its_margin(
    olga: Browser, conn: db.Connection, sent: list[int]
) -> None:
    (price,) = conn.execute("SELECT sum(price) FROM messages WHERE route = 1").fetchone()
    text = extract_text(olga.get(USAGE).text)
    assert "Italy 3 3" in text
    assert f"{(price - 1_500) / 1000:g}" in text
    assert "No route: the default upstream" in text
    assert "France 1 1" in text
    assert "not known" in text


def test_the_list_of_routes_has_this_month_s(olga: Browser, conn: db.Connection, sent: list[int]) -> None:
    (price,) = conn.execute("SELECT sum(price) FROM messages WHERE route = 1").fetchone()
    margin = f"{100 * (price - 1_500) / price:.1f}".removesuffix(".0")
    assert f"3 margin {margin} %" in extract_text(olga.get("/admin/routes").text)


def test_a_month_without_anything_says_so_and_a_wrong_one_is_told(olga: Browser) -> None:
    assert "Nothing in this month" in extract_text(olga.get(f"{USAGE}?month=2020-01").text)
    answer = olga.get(f"{USAGE}?month=2020-13")
    assert answer.status_code == 422
    assert "“2020-13” isn't a month" in extract_text(answer.text)


@pytest.mark.parametrize("name", ["usage", "customers"])
def test_there_is_no_file_of_another_month_than_was_asked_for(olga: Browser, name: str) -> None:
    answer = olga.get(f"/admin/routes/{name}.csv?month=2026-13")
    assert (answer.status_code, answer.location) == (302, f"{USAGE}?month=2026-13")


def test_the_files_agree_with_the_messages(olga: Browser, conn: db.Connection, sent: list[int]) -> None:
    rows = read_csv(olga.get(f"{USAGE}.csv"))
    assert [(each["route"], each["country"], each["messages"], each["parts"]) for each in rows] == [
        ("0", "FR", "1", "1"),
        ("1", "IT", "3", "3"),
    ]
    for each in rows:
        query = "SELECT count(*), sum(parts), sum(price) FROM messages WHERE route = ? AND country = ?"
        count, parts, price = conn.execute(query, (each["route"], each["country"])).fetchone()
        assert (int(each["messages"]), int(each["parts"]), float(each["credits"])) == (
            count,
            parts,
            price / 1000,
        )
    assert (rows[0]["cost"], rows[0]["margin"]) == ("", "")
    assert rows[1]["cost"] == "1.5"


def test_what_customers_have_used_is_a_file_for_invoices(olga: Browser, conn: db.Connection, sent: list[int]) -> None:
    month = months.format_month(months.get_month(ids.time_from_id(sent[0])))
    answer = olga.get(f"/admin/routes/customers.csv?month={month}")
    assert f"customers-{month}.csv" in answer.headers["Content-Disposition"]
    rows = read_csv(answer)
    assert [(each["customer"], each["account"], each["country"], each["messages"]) for each in rows] == [
        ("Acme", "smpp-acme-1", "FR", "1"),
        ("Acme", "smpp-acme-1", "IT", "3"),
    ]
    assert (rows[1]["delivered"], rows[1]["failed"], rows[1]["month"]) == ("1", "0", month)
    (total,) = conn.execute("SELECT sum(price) FROM messages").fetchone()
    assert sum(float(each["credits"]) for each in rows) == total / 1000


def test_operators_see_which_sender_went_out_by_which_route_and_customers_don_t(
    olga: Browser, client: Callable[[Person], Browser], cast: Cast, sent: list[int]
) -> None:
    address = f"/accounts/smpp-acme-1/history/{sent[0]}"
    assert "Sender that went out 48484" in extract_text(olga.get(address).text)
    assert "48484" not in client(cast.alice).get(address).text
