from portal.db import now_ms
from portal.services import directory, prices
from portal.services.audit import SHELL


def default(conn, at=None):
    return prices.load(conn, now_ms() if at is None else at).of_list(prices.DEFAULT_LIST)


def test_prices_are_put_one_by_one(conn):
    before = dict(default(conn).countries)
    prices.put(conn, SHELL, {"IT": 750, "BD": 2000})
    assert default(conn).countries == before | {"IT": 750, "BD": 2000}


def test_the_server_hears_of_new_prices(conn):
    before = directory.version(conn)
    prices.put(conn, SHELL, {"IT": 750})
    assert directory.version(conn) > before


def test_the_longest_range_decides(conn):
    prices.put(conn, SHELL, {"IT": 1000, "39": 1100, "39342": 1500, "393429": None})
    assert default(conn).of("393331234567") == ("IT", 1100)
    assert default(conn).of("393421234567") == ("IT", 1500)
    assert default(conn).of("393429123456") is None


def test_a_price_holds_from_its_date(conn):
    prices.put(conn, SHELL, {"IT": 2000}, valid_from=5_000)
    assert default(conn, 4_999).of("393401234567") == ("IT", 1000)
    assert prices.load(conn, 4_999).until == 5_000
    assert default(conn, 5_000).of("393401234567") == ("IT", 2000)
    assert prices.load(conn, 5_000).until is None
