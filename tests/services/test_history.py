import pytest

from portal.db import now_ms
from portal.services import directory, history, intake, messages, outcomes, prices
from portal.services.messages import DELIVERED, EXPIRED
from portal.services.outcomes import Outcome

DAY_MS = 86_400_000


@pytest.fixture
def send(conn, acme_1):
    """Stores messages of smpp-acme-1, with these texts."""

    def sent(*texts):
        account = next(each for each in directory.load(conn) if each.id == acme_1.id)
        submits = [
            messages.prepare(
                account,
                prices.load(conn),
                source="ACME",
                source_ton=5,
                source_npi=0,
                destination="393401234567",
                esm_class=0,
                data_coding=0,
                registered_delivery=0,
                body=text.encode(),
            )
            for text in texts
        ]
        return intake.store(conn, submits).ids

    return sent


def texts(page):
    return [each.text for each in page]


def test_pages_go_from_the_newest_to_the_oldest_and_back(conn, acme_1, send):
    send(*"abcdefg")
    first = history.page(conn, acme_1.id, limit=3)
    second = history.page(conn, acme_1.id, before=first[-1].id, limit=3)
    assert (texts(first), texts(second)) == (["g", "f", "e"], ["d", "c", "b"])
    assert texts(history.page(conn, acme_1.id, after=second[0].id, limit=3)) == ["g", "f", "e"]


def test_each_message_is_read_once(conn, acme_1, send):
    send(*"abcdefg")
    assert texts(history.each(conn, acme_1.id, batch=2)) == list("gfedcba")


def test_nobody_sees_anothers_messages(conn, acme_1, globex_1, send):
    send("a")
    assert history.page(conn, globex_1.id) == []
    assert list(history.each(conn, globex_1.id)) == []


def test_totals_of_periods(conn, acme_1, send):
    first, second, *_ = send("a", "b", "c", "x" * 161)
    outcomes.finish(conn, [Outcome(first, DELIVERED, 0, now_ms()), Outcome(second, EXPIRED, 801, now_ms())])
    totals = history.totals(conn, acme_1.id, 1)
    assert (totals.sent, totals.delivered, totals.failed, totals.parts, totals.price) == (4, 1, 1, 5, 5000)
    conn.execute("UPDATE daily_totals SET day = day - 7")
    assert history.totals(conn, acme_1.id, 7).sent == 0
    assert history.totals(conn, acme_1.id, 8).sent == 4
    assert history.totals(conn, acme_1.id, None).sent == 4


def test_each_day_is_there_also_when_nothing_was_sent(conn, acme_1, send):
    send("a")
    days = history.per_day(conn, acme_1.id, 7)
    assert [at % DAY_MS for at, _ in days] == [0] * 7
    assert [totals.sent for _, totals in days] == [0] * 6 + [1]


def test_each_code_has_a_description(conn, acme_1, send):
    send("a")
    conn.execute("UPDATE messages SET ptt = 12345")
    assert history.page(conn, acme_1.id)[0].description == "Unknown"
