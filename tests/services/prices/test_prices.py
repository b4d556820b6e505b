"""Price lists: what holds when, what is inherited, and who has which."""

import json
from collections.abc import Callable
from typing import Any

import phonenumbers
import pytest

from portal.core import i18n
from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.common.audit import SHELL
from portal.services.messages import smpp_config
from portal.services.people import customers
from portal.services.prices import countries, price_lists, prices
from portal.services.prices.prices import PriceChange, PriceList, PriceRow, ScheduledPrice

ROME = "Europe/Rome"
ITALIAN, FRENCH = "393401234567", "33612345678"


@pytest.fixture
def volume(conn: Connection) -> int:
    """A second list; it says nothing yet."""
    return price_lists.create_price_list(conn, SHELL, "Volume").id


@pytest.fixture
def change(conn: Connection) -> Callable[..., None]:
    """Changes a list: `change(list_id, "IT", 700, valid_from=…, now=…)`."""

    def one(list_id: int, destination: str, price: int | None, valid_from: int | None = None, now: int = 0) -> None:
        prices.change_prices(conn, SHELL, list_id, [PriceChange(destination, price, valid_from)], ROME, now=now)

    return one


@pytest.fixture
def audited(conn: Connection) -> Callable[[], list[tuple[str, Any]]]:
    """What was noted of price lists since the installation began: actions and their details."""

    def read() -> list[tuple[str, Any]]:
        found = conn.execute("SELECT action, details FROM audit_log WHERE action LIKE 'prices.%' ORDER BY id")
        return [(each["action"], json.loads(each["details"])) for each in found][1:]

    return read


def default(conn: Connection, at: int | None = None) -> PriceList:
    return prices.load_price_lists(conn, now_ms() if at is None else at).get_or_default(price_lists.DEFAULT_LIST)


def italy_row(conn: Connection, list_id: int, at: int | None = None) -> PriceRow:
    """A list's row of Italy."""
    return prices.get_price_row(conn, list_id, "IT", now_ms() if at is None else at)


def stored(conn: Connection) -> list[tuple[int, int | None]]:
    """The rows of Italy, of all lists."""
    return [tuple(each) for each in conn.execute("SELECT valid_from, price FROM prices WHERE destination = 'IT'")]


# --- what a number costs


def test_prices_are_put_one_by_one(conn):
    before = dict(default(conn).countries)
    prices.set_prices(conn, SHELL, {"IT": 750, "KP": 2000})
    assert default(conn).countries == before | {"IT": 750, "KP": 2000}


def test_the_server_hears_of_new_prices(conn, change, volume):
    change(volume, "IT", 700, now_ms() + DAY_MS)
    changes = (
        lambda: prices.set_prices(conn, SHELL, {"IT": 750}),
        lambda: change(volume, "FR", 700),
        lambda: prices.remove_price(conn, SHELL, volume, "IT", italy_row(conn, volume).scheduled[0].valid_from),
        lambda: prices.remove_price(conn, SHELL, volume, "FR"),
        lambda: price_lists.assign_price_list(conn, SHELL, customers.get_customer(conn, "Acme"), volume),
    )
    for each in changes:
        before = smpp_config.read_config_version(conn)
        each()
        assert smpp_config.read_config_version(conn) > before


def test_the_longest_range_decides(conn):
    prices.set_prices(conn, SHELL, {"IT": 1000, "39": 1100, "39342": 1500, "393429": None})
    assert default(conn).find_price("393331234567") == ("IT", 1100)
    assert default(conn).find_price("393421234567") == ("IT", 1500)
    assert default(conn).find_price("393429123456") is None


def test_a_range_prices_what_belongs_to_no_country(conn):
    assert default(conn).find_price("881612345678") is None
    prices.set_prices(conn, SHELL, {"8816": 4000})
    assert default(conn).find_price("881612345678") == (countries.INTERNATIONAL, 4000)


def test_a_price_holds_from_its_date(conn):
    prices.set_prices(conn, SHELL, {"IT": 2000}, valid_from=5_000)
    assert default(conn, 4_999).find_price(ITALIAN) == ("IT", 1000)
    assert prices.load_price_lists(conn, 4_999).next_change_at == 5_000
    assert default(conn, 5_000).find_price(ITALIAN) == ("IT", 2000)
    assert prices.load_price_lists(conn, 5_000).next_change_at is None


def test_a_list_says_what_differs(conn, change, volume):
    change(volume, "IT", 700)
    change(volume, "39342", None)
    own = prices.load_price_lists(conn, now_ms()).get_or_default(volume)
    assert (own.find_price(ITALIAN), own.find_price("393421234567"), own.find_price(FRENCH)) == (
        ("IT", 700),
        None,
        ("FR", 500),
    )
    assert default(conn).find_price("393421234567") == ("IT", 1000)


@pytest.mark.parametrize("at", [-1, 0, 1])
def test_pages_and_the_server_read_the_same(conn, change, volume, at):
    """`rows` is what people see, `load` what they pay."""
    now = now_ms()
    for list_id, destination, price, days in (
        (price_lists.DEFAULT_LIST, "IT", 1500, 2),
        (price_lists.DEFAULT_LIST, "FR", None, 1),
        (price_lists.DEFAULT_LIST, "KP", 3000, 2),
        (price_lists.DEFAULT_LIST, "39342", 1200, 1),
        (volume, "IT", 700, 1),
        (volume, "IT", 800, 3),
        (volume, "DE", None, 0),
        (volume, "393", 600, 2),
    ):
        change(list_id, destination, price, now + days * DAY_MS if days else None, now=now)
    for list_id in (price_lists.DEFAULT_LIST, volume):
        for days in range(5):
            moment = now + days * DAY_MS + at
            charged = prices.load_price_lists(conn, moment).get_or_default(list_id)
            for each in prices.list_price_rows(conn, list_id, moment):
                assert each.price == {**charged.countries, **charged.ranges}.get(each.destination)
                for coming in each.scheduled:
                    later = prices.load_price_lists(conn, coming.valid_from).get_or_default(list_id)
                    assert coming.price == {**later.countries, **later.ranges}[each.destination]


def test_a_list_that_is_gone_counts_as_the_default_one(conn, volume):
    lists = prices.load_price_lists(conn, now_ms())
    price_lists.delete_price_list(conn, SHELL, volume)
    assert prices.load_price_lists(conn, now_ms()).get_or_default(volume) == lists.get_or_default(
        price_lists.DEFAULT_LIST
    )


# --- what a list says


def test_what_is_inherited_and_what_is_to_come(conn, change, volume):
    now = now_ms()
    change(price_lists.DEFAULT_LIST, "IT", 1500, now + DAY_MS)
    change(volume, "IT", 700, now + 2 * DAY_MS)
    change(volume, "IT", None, now + 3 * DAY_MS)
    row = italy_row(conn, volume, now)
    assert (row.price, row.in_force, row.own, row.has_own_entry) == (1000, True, False, True)
    assert row.scheduled == (
        ScheduledPrice(now + DAY_MS, 1500, own=False),
        ScheduledPrice(now + 2 * DAY_MS, 700, own=True),
        ScheduledPrice(now + 3 * DAY_MS, None, own=True),
    )
    later = italy_row(conn, volume, now + 2 * DAY_MS)
    assert (later.price, later.own, len(later.scheduled)) == (700, True, 1)


def test_a_range_belongs_to_its_country(conn, change):
    change(price_lists.DEFAULT_LIST, "1242", 1100)
    row = prices.get_price_row(conn, price_lists.DEFAULT_LIST, "1242", now_ms())
    assert (row.is_range, row.country, row.own) == (True, "BS", True)


def test_nothing_is_said_of_others(conn):
    with pytest.raises(prices.NoSuchPrice):
        prices.get_price_row(conn, price_lists.DEFAULT_LIST, "KP", now_ms())


# --- changing it


def test_a_change_holds_at_once_and_takes_the_place_of_the_last(conn, change, audited):
    now = now_ms()
    change(price_lists.DEFAULT_LIST, "it", 700, now=now)
    change(price_lists.DEFAULT_LIST, "IT", 800, now=now + 5)
    assert italy_row(conn, price_lists.DEFAULT_LIST, now + 5).price == 800
    assert stored(conn) == [(now + 5, 800)]
    assert audited() == [
        ("prices.change", {"list": 1, "prices": [["IT", 1000, 700, now]]}),
        ("prices.change", {"list": 1, "prices": [["IT", 700, 800, now + 5]]}),
    ]


def test_changes_to_come_stay_when_the_price_of_today_changes(conn, change):
    change(price_lists.DEFAULT_LIST, "IT", 1500, now_ms() + DAY_MS)
    change(price_lists.DEFAULT_LIST, "IT", 700)
    assert [each.price for each in italy_row(conn, price_lists.DEFAULT_LIST).scheduled] == [1500]


def test_a_destination_is_closed(conn, change):
    change(price_lists.DEFAULT_LIST, "IT", None)
    assert default(conn).find_price(ITALIAN) is None
    assert (italy_row(conn, price_lists.DEFAULT_LIST).price, italy_row(conn, price_lists.DEFAULT_LIST).in_force) == (
        None,
        True,
    )


def test_a_date_that_is_over_is_refused_and_the_minute_that_runs_is_now(conn, change):
    now = 1_800_000_030_500  # half past a minute
    with pytest.raises(prices.PastPriceDate, match=r"^15 Jan 2027, 08:59:59 CET is over\. "):
        change(price_lists.DEFAULT_LIST, "IT", 700, now - 30_501, now=now)
    assert italy_row(conn, price_lists.DEFAULT_LIST, now).price == 1000
    change(price_lists.DEFAULT_LIST, "IT", 700, now - 30_500, now=now)
    assert stored(conn) == [(now, 700)]


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        (PriceChange("XX", 1), prices.InvalidPriceDestination),
        (PriceChange("999", 1), prices.InvalidPriceDestination),
        (PriceChange("", 1), prices.InvalidPriceDestination),
        (PriceChange("DE", 0), prices.InvalidPrice),
        (PriceChange("DE", prices.MAX_PRICE + 1), prices.InvalidPrice),
        (PriceChange("DE", 1, 1), prices.PastPriceDate),
    ],
)
def test_all_changes_or_none(conn, audited, wrong, refusal):
    before = prices.list_price_rows(conn, price_lists.DEFAULT_LIST, now_ms())
    with pytest.raises(refusal):
        prices.change_prices(conn, SHELL, price_lists.DEFAULT_LIST, [PriceChange("IT", 700), wrong], ROME)
    assert prices.list_price_rows(conn, price_lists.DEFAULT_LIST, now_ms()) == before
    assert audited() == []


def test_a_list_that_is_not_there_is_not_changed(change):
    with pytest.raises(price_lists.NoSuchPriceList):
        change(99, "IT", 700)


def test_a_list_stops_saying_something(conn, change, volume, audited):
    now = now_ms()
    change(volume, "IT", 700, now=now)
    change(volume, "IT", 800, now + DAY_MS, now=now)
    prices.remove_price(conn, SHELL, volume, "IT")
    row = italy_row(conn, volume)
    assert (row.price, row.has_own_entry, row.scheduled) == (1000, False, ())
    details = {"list": volume, "destination": "IT", "prices": [[now, 700], [now + DAY_MS, 800]]}
    assert audited()[-1] == ("prices.remove", details)
    with pytest.raises(prices.NoSuchPrice):
        prices.remove_price(conn, SHELL, volume, "IT")


def test_a_change_to_come_is_called_off(conn, change, audited):
    at = now_ms() + DAY_MS
    change(price_lists.DEFAULT_LIST, "IT", 1500, at)
    prices.remove_price(conn, SHELL, price_lists.DEFAULT_LIST, "IT", at)
    assert italy_row(conn, price_lists.DEFAULT_LIST).scheduled == ()
    assert audited()[-1][1] == {"list": 1, "destination": "IT", "valid_from": at, "price": 1500}


def test_what_holds_is_not_called_off(conn, change):
    now = now_ms()
    change(price_lists.DEFAULT_LIST, "IT", 1500, now=now)
    with pytest.raises(prices.NoSuchPrice):
        prices.remove_price(conn, SHELL, price_lists.DEFAULT_LIST, "IT", now)
    assert italy_row(conn, price_lists.DEFAULT_LIST).price == 1500


# --- what is typed


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2027-01-31", 1_801_350_000_000),
        ("2027-01-31T08:00", 1_801_378_800_000),
        (" 2027-01-31 08:00:05 ", 1_801_378_805_000),
        ("2027-01-31T08:00Z", 1_801_382_400_000),
        ("2027-07-31T08:00", 1_817_013_600_000),
        ("", None),
    ],
)
def test_dates_are_read_in_the_installation_s_time_zone(text, at):
    assert prices.parse_valid_from(text, ROME) == at
    if at is not None:
        assert prices.parse_valid_from(prices.format_valid_from(at, ROME), "Asia/Tokyo") == at


@pytest.mark.parametrize("text", ["soon", "31/01/2027", "2027-13-01", "9999-12-31", "0001-01-01", "1", "2027-01-31T25"])
def test_what_is_no_date_is_refused(text):
    with pytest.raises(prices.InvalidPriceDate):
        prices.parse_valid_from(text, ROME)


def test_a_price_is_read_in_the_language_in_use():
    assert prices.parse_price("0.8") == 800
    i18n.use_language("it")
    assert prices.parse_price("0,8") == 800


@pytest.mark.parametrize("text", ["", "0", "-1", "free", "0.0001", "1000.001", "0,8"])
def test_what_is_no_price_is_refused(text):
    with pytest.raises(prices.InvalidPrice):
        prices.parse_price(text)


# --- the lists


def test_lists_are_made_renamed_and_deleted(conn, change, audited):
    made = price_lists.create_price_list(conn, SHELL, "  Big   spenders ")
    assert (made.name, made.customer_count, made.price_count) == ("Big spenders", 0, 0)
    change(made.id, "IT", 700)
    assert price_lists.rename_price_list(conn, SHELL, made.id, "Volume").price_count == 1
    assert [each.name for each in price_lists.list_price_lists(conn)] == ["", "Volume"]
    assert price_lists.get_price_list(conn, "volume") == price_lists.get_price_list_by_id(conn, made.id)
    price_lists.delete_price_list(conn, SHELL, made.id)
    assert [each.name for each in price_lists.list_price_lists(conn)] == [""]
    assert conn.execute("SELECT count(*) FROM prices WHERE list_id = ?", (made.id,)).fetchone()[0] == 0
    actions = [action for action, _ in audited()]
    assert actions == ["prices.create_list", "prices.change", "prices.rename_list", "prices.delete_list"]


@pytest.mark.parametrize("name", ["", "  ", "x" * 61])
def test_a_list_has_a_name(conn, volume, name):
    for act in (
        lambda: price_lists.create_price_list(conn, SHELL, name),
        lambda: price_lists.rename_price_list(conn, SHELL, volume, name),
    ):
        with pytest.raises(price_lists.PriceListNameMissing):
            act()


def test_a_name_is_given_once(conn, volume):
    other = price_lists.create_price_list(conn, SHELL, "Other")
    for act in (
        lambda: price_lists.create_price_list(conn, SHELL, "VOLUME"),
        lambda: price_lists.rename_price_list(conn, SHELL, other.id, "volume"),
    ):
        with pytest.raises(price_lists.PriceListExists):
            act()


def test_the_default_list_stays(conn):
    with pytest.raises(price_lists.DefaultListImmutable):
        price_lists.delete_price_list(conn, SHELL, price_lists.DEFAULT_LIST)
    with pytest.raises(price_lists.DefaultListImmutable):
        price_lists.rename_price_list(conn, SHELL, price_lists.DEFAULT_LIST, "Other")


def test_a_customer_is_given_a_list_and_the_default_one_again(conn, cast, acme_1, globex_1, volume, change, audited):
    change(volume, "IT", 700)
    acme = customers.get_customer_by_id(conn, cast.acme)
    price_lists.assign_price_list(conn, SHELL, acme, volume)
    assert customers.get_customer_by_id(conn, cast.acme).price_list_id == volume
    assert prices.load_account_price_list(conn, acme_1.id, now_ms()).find_price(ITALIAN) == ("IT", 700)
    assert prices.load_account_price_list(conn, globex_1.id, now_ms()).find_price(ITALIAN) == ("IT", 1000)
    assert [each.customer_count for each in price_lists.list_price_lists(conn)] == [1, 1]
    with pytest.raises(price_lists.PriceListInUse, match="“Volume” is the list of Acme"):
        price_lists.delete_price_list(conn, SHELL, volume)
    price_lists.assign_price_list(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), price_lists.DEFAULT_LIST)
    assert prices.load_account_price_list(conn, acme_1.id, now_ms()).find_price(ITALIAN) == ("IT", 1000)
    price_lists.delete_price_list(conn, SHELL, volume)
    assert audited()[-2] == ("prices.assign", {"list": 1, "name": "", "before": volume})


def test_a_list_that_is_not_there_is_not_assigned(conn, cast):
    with pytest.raises(price_lists.NoSuchPriceList):
        price_lists.assign_price_list(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), 99)


# --- the list as shipped


def test_the_shipped_list_prices_the_world():
    shipped = prices.read_initial_prices()
    without = set(phonenumbers.SUPPORTED_REGIONS) - set(shipped)
    # Two islands without mobile networks, and a country that no carrier reaches.
    assert without == {"AC", "TA", "KP"}
    assert all(0 < price <= 4000 for price in shipped.values())
    assert set(shipped) == {prices.parse_destination(each) for each in shipped}
    assert {country: shipped[country] for country in ("IT", "FR", "ES", "US")} == {
        "IT": 1000,
        "FR": 500,
        "ES": 800,
        "US": 1000,
    }


@pytest.mark.parametrize("language", list(i18n.LANGUAGES))
def test_every_country_has_a_name_in_both_languages(language):
    i18n.use_language(language)
    named = {each: countries.get_country_name(each) for each in prices.read_initial_prices()}
    assert [each for each, name in named.items() if name == each] == []
    assert named["DE"] == {"en": "Germany", "it": "Germania"}[language]
