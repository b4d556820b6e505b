"""What a message costs when prices change while clients send: the next submit costs the new price, and says so."""

from collections.abc import Callable
from functools import partial

import pytest

from portal.core import db
from portal.core.clock import now_ms
from portal.core.wakeup import WakeupSender
from portal.services.common.audit import SHELL
from portal.services.people import customers
from portal.services.prices import price_lists, prices
from portal.services.prices.prices import PriceChange
from portal.smsc.protocol.constants import CommandStatus
from portal.smsc.server import SmppServer
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.support import Cast

ITALIAN = "393331234567"
SOON_MS = 300


@pytest.fixture
def say(conn: db.Connection, wakeup_sender: WakeupSender) -> Callable[..., None]:
    """Changes a price list as a page does, and wakes the server."""

    def change(
        destination: str, price: int | None, valid_from: int | None = None, list_id: int = price_lists.DEFAULT_LIST
    ) -> None:
        prices.change_prices(conn, SHELL, list_id, [PriceChange(destination, price, valid_from)], "UTC")
        wakeup_sender.send()

    return change


@pytest.fixture
def paid(conn: db.Connection, cast: Cast) -> Callable[[], list[int]]:
    """What the messages of the account have cost, in their order, with what the balance lacks."""

    def read() -> list[int]:
        rows = conn.execute("SELECT price FROM messages WHERE account_id = ? ORDER BY id", (cast.smpp_acme_1.id,))
        stored = [each["price"] for each in rows]
        balance = conn.execute("SELECT balance FROM accounts WHERE id = ?", (cast.smpp_acme_1.id,)).fetchone()[0]
        assert 1_000_000 - balance == sum(stored)
        return stored

    return read


def price_of(server, name, number=ITALIAN):
    """What the server takes for a part now."""
    return server.storage.get_price_list(server.storage.find_account(name)).find_price(number)


def has_price(server: SmppServer, name: str, price: int) -> bool:
    return bool(price_of(server, name) == ("IT", price))


async def test_a_new_price_is_what_the_next_submit_costs(config, cast, say, paid):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(ITALIAN)).status == 0
        say("IT", 750)
        await wait_until(lambda: price_of(server, cast.smpp_acme_1.name) == ("IT", 750))
        assert (await esme.submit(ITALIAN)).status == 0
        say("3933", 2500)
        await wait_until(lambda: price_of(server, cast.smpp_acme_1.name) == ("IT", 2500))
        assert (await esme.submit(ITALIAN)).status == 0
        assert (await esme.submit("393401234567")).status == 0
        assert paid() == [1000, 750, 2500, 750]


@pytest.mark.slow
async def test_a_date_that_comes_changes_the_price(config, cast, say, paid):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(ITALIAN)).status == 0
        at = now_ms() + SOON_MS
        say("IT", 750, at)

        def has_changed():
            price = price_of(server, cast.smpp_acme_1.name)
            assert price == ("IT", 1000) or now_ms() >= at
            return price == ("IT", 750)

        await wait_until(has_changed)
        assert (await esme.submit(ITALIAN)).status == 0
        assert paid() == [1000, 750]


async def test_a_list_that_is_assigned_is_what_the_next_submit_costs(config, cast, conn, wakeup_sender, say, paid):
    volume = price_lists.create_price_list(conn, SHELL, "Volume").id
    say("IT", 700, list_id=volume)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        other = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
        assert (await esme.submit(ITALIAN)).status == 0
        for list_id, price in ((volume, 700), (price_lists.DEFAULT_LIST, 1000)):
            price_lists.assign_price_list(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), list_id)
            wakeup_sender.send()
            await wait_until(partial(has_price, server, cast.smpp_acme_1.name, price))
            assert price_of(server, cast.smpp_globex_1.name) == ("IT", 1000)
            assert (await esme.submit(ITALIAN)).status == 0
            assert (await other.submit(ITALIAN, source="GLOBEX")).status == 0
        assert paid() == [1000, 700, 1000]


async def test_a_destination_that_is_closed_is_refused_and_one_that_is_opened_taken(config, cast, say, paid):
    korean = "8501921234567"
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(korean)).status == CommandStatus.ESME_RINVDSTADR
        say("KP", 4000)
        await wait_until(lambda: price_of(server, cast.smpp_acme_1.name, korean))
        assert (await esme.submit(korean)).status == 0
        say("IT", None)
        await wait_until(lambda: price_of(server, cast.smpp_acme_1.name) is None)
        assert (await esme.submit(ITALIAN)).status == CommandStatus.ESME_RINVDSTADR
        assert paid() == [4000]
