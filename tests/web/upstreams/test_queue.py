"""What waits for upstreams, as operators see and steer it in the page."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.common.audit import SHELL
from portal.services.messages import queue_works
from portal.services.routing import route_table
from portal.services.upstreams import holds, upstreams
from portal.services.upstreams.upstreams import Upstream
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import add_upstream, queue_messages, reroute
from tests.support import Cast, Person
from tests.web.acting import extract_text
from tests.web.conftest import Browser

PAGE = "/admin/queue"


@pytest.fixture(autouse=True)
def carriers(conn: db.Connection, keys: Keys) -> list[Upstream]:
    return [add_upstream(conn, keys, name) for name in ("first", "second")]


@pytest.fixture
def waiting(conn: db.Connection, cast: Cast, carriers: list[Upstream]) -> list[int]:
    """Three messages of Acme's, and one of Globex'."""
    return [*queue_messages(conn, cast.smpp_acme_1.id, 3), *queue_messages(conn, cast.smpp_globex_1.id)]


def find_fields(page: str) -> dict[str, str]:
    """The hidden fields of the question."""
    return dict(re.findall(r'name="(selection|form|csrf_token)"[^>]* value="([^"]*)"', page))


def confirm(browser: Browser, address: str, **fields: str) -> str:
    """Answer the question at an address; returns the page that follows."""
    fields = find_fields(browser.get(address).text) | fields
    fields["selection"] = fields["selection"].replace("&#34;", '"')
    answer = browser.post(address, data=fields)
    assert answer.status_code == 303
    return browser.get(answer.headers["Location"]).text


def test_what_waits_is_shown_in_groups(olga: Browser, conn: db.Connection, cast: Cast, waiting: list[int]) -> None:
    create_route(conn, "second", country="FR")
    holds.hold_account(conn, SHELL, cast.smpp_globex_1.id, "unusual traffic")
    text = extract_text(olga.get(PAGE).text)
    assert "3 messages wait for their turn, 1 is on hold." in text
    assert re.search(r"first 3 1 ", text)
    assert "smpp-globex-1 unusual traffic shell" in text
    text = extract_text(olga.get(f"{PAGE}?by=account").text)
    assert re.search(r"smpp-acme-1 3 0 .* smpp-globex-1 0 1 ", text)
    assert "None: the default 3 1" in extract_text(olga.get(f"{PAGE}?by=route").text)
    assert "Nothing that waits fits" in extract_text(olga.get(f"{PAGE}?upstream=second").text)
    assert "Nothing that waits fits" in extract_text(olga.get(f"{PAGE}?by=age&older=1d").text)


def test_without_anything_that_waits_the_page_says_so(olga: Browser) -> None:
    assert "Messages that no upstream has room for, or can reach, are listed here." in olga.get(PAGE).text


def test_an_account_that_is_none_is_told_and_what_was_typed_stays(olga: Browser, waiting: list[int]) -> None:
    page = olga.get(f"{PAGE}?account=smpp-nobody").text
    assert 'value="smpp-nobody"' in page
    assert 'aria-invalid="true"' in page
    answer = olga.get(f"{PAGE}/cancel?account=smpp-nobody")
    assert answer.headers["Location"] == f"{PAGE}?account=smpp-nobody"


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("upstream=renamed", "There is no upstream “renamed”."),
        ("route=77", "There is no route 77."),
        ("route=x", "There is no route x."),
        ("older=2h", "Choose one"),
        ("quiet=then", "Choose one"),
    ],
)
def test_a_filter_that_fits_nothing_is_refused_and_never_means_all(
    olga: Browser, waiting: list[int], query: str, sentence: str
) -> None:
    answer = olga.get(f"{PAGE}?{query}")
    assert (answer.status_code, sentence in extract_text(answer.text)) == (422, True)
    assert query.partition("=")[2] in answer.text
    assert "all of these" not in answer.text
    # An open page loads anew, and says so.
    poll = olga.get(f"{PAGE}/changes?{query}&seen=1", headers={"HX-Request": "true"})
    assert poll.headers["HX-Redirect"] == f"{PAGE}?{query}&seen=1"
    for action in ("hold", "release", "move", "cancel"):
        assert olga.get(f"{PAGE}/{action}?{query}").headers["Location"] == f"{PAGE}?{query}"


def test_the_question_names_the_filter(olga: Browser, waiting: list[int]) -> None:
    text = extract_text(olga.get(f"{PAGE}/cancel?upstream=first&route=0").text)
    assert "Upstream: first · Route: None: the default" in text
    assert "All that waits" in extract_text(olga.get(f"{PAGE}/cancel").text)


def test_quiet_hours_are_said_and_each_button_names_its_row(olga: Browser, conn: db.Connection, cast: Cast) -> None:
    hour = datetime.now(UTC).hour
    create_route(conn, "second", country="IT", quiet_hours=f"{hour}:00-{(hour + 2) % 24}:00 UTC")
    queue_messages(conn, cast.smpp_acme_1.id, 2)
    reroute(conn)
    page = extract_text(olga.get(PAGE).text)
    assert re.search(r"second 2 wait until .*:00.*: quiet hours of route 1 2 0 ", page)
    assert "Hold second Move second Cancel them second Hold all of these" in page
    assert "quiet hours of route 1" in extract_text(olga.get(f"{PAGE}?quiet=now").text)
    holds.hold_account(conn, SHELL, cast.smpp_acme_1.id, "")
    page = extract_text(olga.get(PAGE).text)
    assert "quiet hours of route" not in page
    assert "Release smpp-acme-1 Hold an account" in page


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("hold", "The messages are being held."),
        ("cancel", "The messages are being cancelled."),
    ],
)
def test_the_count_is_asked_first_and_what_comes_afterwards_is_not_meant(
    olga: Browser, conn: db.Connection, cast: Cast, waiting: list[int], action: str, said: str
) -> None:
    address = f"{PAGE}/{action}?account=smpp-acme-1"
    question = olga.get(address).text
    assert "3 messages , of one account" in extract_text(question)
    assert "smpp-acme-1 (3)" in extract_text(question)
    page = confirm(olga, address + "&by=account")
    assert said in page
    (work,) = queue_works.list_queue_works(conn)
    assert (work.action, work.asked_count, work.asked_by) == (action, 3, "olga@portal.example")
    assert work.selection.account_id == cast.smpp_acme_1.id
    assert work.selection.before_id <= queue_messages(conn, cast.smpp_acme_1.id)[0]
    assert "Under way 0 of 3" in extract_text(page)


def test_a_form_that_is_sent_twice_does_it_once(olga: Browser, conn: db.Connection, waiting: list[int]) -> None:
    fields = find_fields(olga.get(f"{PAGE}/hold").text)
    fields["selection"] = fields["selection"].replace("&#34;", '"')
    for _ in range(2):
        assert olga.post(f"{PAGE}/hold", data=fields).status_code == 303
    assert len(queue_works.list_queue_works(conn)) == 1


def test_what_is_cancelled_is_paid_back_and_the_question_says_how_much(
    olga: Browser, conn: db.Connection, cast: Cast, waiting: list[int]
) -> None:
    (cost,) = conn.execute("SELECT sum(price) FROM messages").fetchone()
    question = extract_text(olga.get(f"{PAGE}/cancel").text)
    assert "4 messages , of 2 accounts" in question
    assert f"{cost // 1000} credits are given back." in question
    confirm(olga, f"{PAGE}/cancel")
    queue_works.run_queue_step(conn, route_table.load_route_table(conn), lambda *_: ())
    page = extract_text(olga.get(PAGE).text)
    assert f"Done 4 of 4 cancelled, {cost // 1000} credits given back" in page


def test_a_work_that_went_wrong_says_why_and_that_it_is_tried_again(
    olga: Browser, conn: db.Connection, waiting: list[int]
) -> None:
    confirm(olga, f"{PAGE}/hold")
    conn.execute("CREATE TRIGGER full BEFORE INSERT ON held_messages BEGIN SELECT RAISE(ABORT, 'no room'); END")
    queue_works.run_queue_step(conn, route_table.load_route_table(conn), lambda *_: ())
    page = extract_text(olga.get(PAGE).text)
    assert "Failed, is tried again IntegrityError: no room 0 of 4 held" in page


def test_a_move_wants_an_upstream_that_takes_messages(
    olga: Browser, conn: db.Connection, carriers: list[Upstream], waiting: list[int]
) -> None:
    address = f"{PAGE}/move"
    fields = find_fields(olga.get(address).text)
    fields["selection"] = fields["selection"].replace("&#34;", '"')
    answer = olga.post(address, data=fields)
    assert answer.status_code == 422
    assert "Say to which upstream they are to be moved." in answer.text
    # Another operator disables it meanwhile.
    upstreams.disable_upstream(conn, SHELL, carriers[1])
    answer = olga.post(address, data=fields | {"to": "second"})
    assert (answer.status_code, "second is disabled or drained" in answer.text) == (422, True)
    upstreams.enable_upstream(conn, SHELL, upstreams.get_upstream(conn, "second"))
    confirm(olga, address, to="second")
    assert queue_works.list_queue_works(conn)[0].target == "second"


def test_nothing_is_asked_where_nothing_fits(olga: Browser, waiting: list[int]) -> None:
    assert "Nothing that was held or moved fits." in olga.get(f"{PAGE}/release").text
    assert "Nothing that waits fits." in olga.get(f"{PAGE}/hold?upstream=second").text


def test_a_selection_that_no_page_has_written_is_refused(olga: Browser, waiting: list[int]) -> None:
    for fields in ({}, {"selection": "[]"}, {"selection": '[[""], null, null, "x"]'}):
        assert olga.post(f"{PAGE}/cancel", data=fields).status_code == 400
    # Of an upstream that there isn't nothing waits.
    fields = find_fields(olga.get(f"{PAGE}/hold").text) | {"selection": '[["q-1"], 0, 0, 1]'}
    assert olga.post(f"{PAGE}/hold", data=fields).status_code == 303


def test_an_account_is_held_and_released(olga: Browser, conn: db.Connection, cast: Cast, waiting: list[int]) -> None:
    address = f"{PAGE}/accounts/hold"
    answer = olga.post(address, data={"account": "smpp-nobody", "reason": "stolen?"})
    assert answer.status_code == 422
    assert 'value="stolen?"' in answer.text
    answer = olga.post(address, data={"account": "smpp-acme-1", "reason": "stolen?"})
    assert "smpp-acme-1 is on hold." in olga.get(answer.headers["Location"]).text
    (hold,) = holds.list_account_holds(conn)
    assert (hold.reason, hold.actor) == ("stolen?", "olga@portal.example")
    answer = olga.post(address, data={"account": "smpp-acme-1", "reason": "again"})
    assert "smpp-acme-1 was on hold already." in olga.get(answer.headers["Location"]).text
    address = f"{PAGE}/accounts/smpp-acme-1/release"
    assert "3 messages of smpp-acme-1 go out in their turn." in extract_text(olga.get(address).text)
    answer = olga.post(address)
    assert "smpp-acme-1 was released." in olga.get(answer.headers["Location"]).text
    assert holds.list_account_holds(conn) == []
    answer = olga.post(address)
    assert "smpp-acme-1 was not on hold any more." in olga.get(answer.headers["Location"]).text


def test_an_open_page_is_told_what_has_changed_and_nothing_else(
    olga: Browser, conn: db.Connection, cast: Cast, waiting: list[int]
) -> None:
    (address,) = re.findall(r'hx-get="([^"]*changes[^"]*)"', olga.get(PAGE).text)
    address = address.replace("&amp;", "&")
    assert olga.get(address).status_code == 204
    queue_messages(conn, cast.smpp_acme_1.id)
    answer = olga.get(address)
    assert "5 messages wait for their turn" in extract_text(answer.text)
    assert "<html" not in answer.text


def test_the_largest_groups_are_shown(
    olga: Browser, conn: db.Connection, cast: Cast, waiting: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.web.upstreams.queue._MAX_ROWS", 1)
    text = extract_text(olga.get(f"{PAGE}?by=account").text)
    assert "smpp-acme-1 3 0" in text
    assert "smpp-globex-1" not in text
    assert "1 smaller group isn’t shown." in text


def test_others_see_nothing_of_it(client: Callable[[Person], Browser], cast: Cast, waiting: list[int]) -> None:
    alice = client(cast.alice)
    for address in ("", "/changes", "/hold", "/accounts/hold", "/accounts/smpp-acme-1/release"):
        assert alice.get(PAGE + address).status_code == 404
