"""The layout of ids: below 2^53, growing with time, and the same in Python and SQL."""

from calendar import timegm

import pytest

from portal.core.db import write_transaction
from portal.services.common import ids

IN_2010, IN_2020, IN_2026, IN_2089 = (timegm((year, 1, 1, 0, 0, 0)) * 1000 for year in (2010, 2020, 2026, 2089))


def test_an_id_is_a_whole_number_for_programs_that_have_floating_point_numbers_only():
    last = ids.min_id_at_time(IN_2089) - 1
    assert last < 1 << 53
    assert int(float(last)) == last
    assert float(last) != float(last - 1)


@pytest.mark.parametrize("at", [IN_2020, IN_2026, IN_2089, 1 << 43])
def test_an_id_holds_its_time(at):
    first = ids.min_id_at_time(at)
    assert ids.time_from_id(first) == ids.time_from_id(first + 4_095) == at
    assert ids.time_from_id(first + 4_096) == at + 1
    assert ids.min_id_at_time(at + 1_000) - first == ids.id_span(1_000)


@pytest.mark.parametrize("at", [0, IN_2010, IN_2020])
def test_no_id_is_smaller_than_those_of_2020(at):
    assert ids.min_id_at_time(at) == 0


@pytest.mark.parametrize("at", [0, IN_2010, IN_2020 + 1, IN_2026, 1 << 43])
def test_sql_knows_the_same_layout(conn, at):
    least = ids.min_id_at_time(at)
    row = conn.execute(f"SELECT {ids.build_time_sql(':id')}, {ids.build_time_sql(':id - 1')}", {"id": least}).fetchone()
    assert tuple(row) == (ids.time_from_id(least), ids.time_from_id(least - 1))


@pytest.mark.parametrize("table", ["messages", "received", "movements"])
def test_a_clock_before_2020_gives_ids_too_and_none_twice(conn, table):
    with write_transaction(conn):
        conn.execute("DELETE FROM movements")
        first = ids.allocate_id(conn, table, now=IN_2010)
        assert first >= 1
        conn.execute("UPDATE counters SET value = ? WHERE name IN ('message_id', 'movement_id')", (first + 4_999,))
        assert ids.allocate_id(conn, table, now=IN_2010) == first + 5_000
        assert ids.time_from_id(first + 5_000) == IN_2020 + 1, "it runs ahead"
