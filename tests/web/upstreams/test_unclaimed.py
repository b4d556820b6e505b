"""The operators' pages of receipts that match nothing, and of messages that no account takes."""

import re
from collections.abc import Callable

import pytest

from portal.core import db
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.services.common.audit import SYSTEM
from portal.services.messages import inbound_numbers, kept_receipts
from portal.services.upstreams import unclaimed, upstreams
from portal.services.upstreams.upstreams import Upstream
from tests.services.messages.test_receipt_matching import build, receive, send
from tests.services.upstreams.waiting import add_upstream
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
UNMATCHED, UNOWNED = "/admin/upstreams/unmatched", "/admin/upstreams/unowned"
HANDSET = "393331234567"


@pytest.fixture
def olga(client: Client, cast: Cast) -> Browser:
    return client(cast.olga)


@pytest.fixture
def carrier(conn: db.Connection, keys: Keys) -> Upstream:
    return add_upstream(conn, keys, message_ids="as-is")


# --- receipts


def fill_receipts(conn: db.Connection, account_id: int, count: int = 40) -> None:
    numbers = range(0xAB00, 0xAB00 + count)
    send(conn, account_id, [f"{each:x}" for each in numbers])
    receive(conn, *(build(str(each)) for each in numbers))


def read_form(page: str) -> dict[str, str]:
    """The hidden fields of the first hint's form."""
    form = page.partition("/receipt-ids")[2].partition("</form>")[0]
    parts = re.findall(r'<input [^>]*type="hidden"[^>]*>', form)
    values = {
        each.partition('name="')[2].partition('"')[0]: each.partition('value="')[2].partition('"')[0] for each in parts
    }
    return {name: value for name, value in values.items() if name != "csrf_token"}


def test_the_likely_setting_is_told_and_set_with_one_click(olga, conn, cast, carrier):
    fill_receipts(conn, cast.smpp_acme_1.id)
    page = olga.get(UNMATCHED).text
    text = extract_text(page)
    assert "40 ids match when those of submit_sm_resp are read as hexadecimal" in text
    assert "message_ids hex-to-dec · of the last 40 receipts" in text
    form = read_form(page)
    assert form == {"form": form["form"], "version": str(carrier.version), "message_ids": "hex-to-dec"}
    answer = olga.post(f"/admin/upstreams/{carrier.id}/receipt-ids", data=form)
    assert (answer.status_code, answer.location) == (303, f"{UNMATCHED}?upstream={carrier.id}")
    assert upstreams.get_upstream(conn, "carrier").settings.message_ids == "hex-to-dec"
    row = conn.execute("SELECT action, details FROM audit_log ORDER BY id DESC LIMIT 1").fetchone()
    assert (row["action"], "hex-to-dec" in row["details"]) == ("upstream.change", True)
    # The server does the rest.
    assert kept_receipts.list_upstreams_to_retry(conn)


def test_hints_are_on_the_first_page_alone(olga, conn, cast, carrier):
    fill_receipts(conn, cast.smpp_acme_1.id)
    page = olga.get(UNMATCHED).text
    older = page.partition('href="?before=')[2].partition('"')[0]
    assert older
    assert read_form(page)
    assert read_form(olga.get(f"{UNMATCHED}?before={older}").text) == {}


def test_what_is_set_twice_is_said_to_be_done(olga, conn, cast, carrier):
    fill_receipts(conn, cast.smpp_acme_1.id)
    form = read_form(olga.get(UNMATCHED).text)
    address = f"/admin/upstreams/{carrier.id}/receipt-ids"
    assert olga.post(address, data={"version": form["version"]}).status_code == 400
    assert "It is set." in extract_text(olga.post(address, data=form, follow_redirects=True).text)
    text = extract_text(olga.post(address, data=form, follow_redirects=True).text)
    assert "This form was sent before" in text
    assert "somebody else" not in text


def test_what_somebody_else_has_changed_meanwhile_stays(olga, conn, keys, cast, carrier):
    fill_receipts(conn, cast.smpp_acme_1.id)
    form = read_form(olga.get(UNMATCHED).text)
    upstreams.change_upstream(conn, keys, SYSTEM, carrier, message_ids="dec-to-hex")
    answer = olga.post(f"/admin/upstreams/{carrier.id}/receipt-ids", data=form, follow_redirects=True)
    assert "was changed by somebody else: see what is likely now." in extract_text(answer.text)
    assert upstreams.get_upstream(conn, "carrier").settings.message_ids == "dec-to-hex"
    assert read_form(answer.text)["message_ids"] == "hex-to-dec"


@pytest.mark.parametrize(
    ("field", "value"), [("message_ids", "none of these"), ("receipt_id_pattern", "(a+)+"), ("receipt_id_from", "x")]
)
def test_a_forged_value_is_refused(olga, conn, carrier, field, value):
    data = {"version": str(carrier.version), field: value}
    answer = olga.post(f"/admin/upstreams/{carrier.id}/receipt-ids", data=data, follow_redirects=True)
    assert "can't be the value of" in extract_text(answer.text)
    assert upstreams.get_upstream(conn, "carrier") == carrier


def test_receipts_are_listed_by_upstream_in_pages(olga, conn, keys, carrier):
    other = add_upstream(conn, keys, "other")
    receive(conn, *(build(f"a{number}.") for number in range(30)), build("b1.", upstream=other.id))
    text = extract_text(olga.get(UNMATCHED).text)
    assert "b1." in text
    assert "a29." in text
    assert "a5." not in text
    page = olga.get(f"{UNMATCHED}?upstream={carrier.id}").text
    assert "b1." not in page
    older = page.partition('href="?upstream=1&amp;before=')[2].partition('"')[0]
    page = olga.get(f"{UNMATCHED}?upstream={carrier.id}&before={older}").text
    assert "a0." in page
    assert "a29." not in page
    newer = page.partition("&amp;after=")[2].partition('"')[0]
    assert "a29." in olga.get(f"{UNMATCHED}?upstream={carrier.id}&after={newer}").text
    assert "There is none" not in page
    conn.execute("DELETE FROM unmatched_receipts")
    assert "There is none" in olga.get(UNMATCHED).text


# --- messages from handsets


def keep(conn: db.Connection, upstream_id: int | None, number: str = "48480", text: str = "hello") -> None:
    unclaimed.keep_unowned_messages(conn, [(now_ms(), upstream_id, HANDSET, number, text)])


def key_of(page: str) -> str:
    return page.partition('name="form"')[2].partition('value="')[2].partition('"')[0]


def test_messages_that_no_account_takes_are_listed_with_the_remedy(olga, conn, cast, carrier):
    keep(conn, carrier.id, text="<b>first</b>")
    keep(conn, None, "48481", "simulated one")
    page = olga.get(UNOWNED).text
    text = extract_text(page)
    assert "<b>first</b>" in text.replace("&lt;", "<").replace("&gt;", ">")
    assert "simulated one" in text
    assert "simulated one" not in olga.get(f"{UNOWNED}?upstream={carrier.id}").text
    assert f"{UNOWNED}/add?number=48480" in page
    form = olga.get(f"{UNOWNED}/add?number=48480", htmx=True).text
    assert 'value="48480"' in form
    data = {"form": key_of(form), "number": "48480", "account": cast.smpp_acme_1.name, "keyword": ""}
    answer = olga.post(f"{UNOWNED}/add", data=data)
    assert (answer.status_code, answer.location) == (303, UNOWNED)
    again = olga.post(f"{UNOWNED}/add", data=data, follow_redirects=True)
    assert "This form was sent before" in extract_text(again.text)
    account = acting.get_account(conn, cast.smpp_acme_1.name)
    assert [each.number for each in inbound_numbers.list_inbound_numbers(conn, account.id)] == ["48480"]
    actions = [row[0] for row in conn.execute("SELECT action FROM audit_log ORDER BY id DESC LIMIT 1")]
    assert actions == ["number.add"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"account": "smpp-nobody-1"}, "There is no account “smpp-nobody-1”."),
        ({"account": ""}, "There is no account"),
        ({"number": "12"}, "can't be a number that messages are sent to"),
        ({"keyword": "two words"}, "A keyword is one word"),
    ],
)
def test_what_cannot_be_added_is_told_at_its_field(olga, conn, cast, typed, said):
    form = olga.get(f"{UNOWNED}/add?number=48480", htmx=True).text
    data = {"form": key_of(form), "number": "48480", "account": cast.smpp_acme_1.name, "keyword": ""}
    answer = olga.post(f"{UNOWNED}/add", data=data | typed, htmx=True)
    assert answer.status_code == 422
    assert said in extract_text(answer.text)
    assert conn.execute("SELECT count(*) FROM inbound_numbers").fetchone()[0] == 0


def test_a_number_that_has_an_account_is_told(olga, conn, cast):
    account = acting.get_account(conn, cast.smpp_acme_1.name)
    inbound_numbers.add_inbound_number(conn, SYSTEM, account, "48480")
    form = olga.get(f"{UNOWNED}/add?number=48480").text
    data = {"form": key_of(form), "number": "48480", "account": cast.smpp_globex_1.name, "keyword": ""}
    assert "reaches smpp-acme-1 already" in extract_text(olga.post(f"{UNOWNED}/add", data=data).text)
