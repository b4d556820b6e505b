"""Brakes on open connections: statuses, live changes, restarts, several sessions and a second process at once."""

import asyncio
from collections import Counter

import pytest

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.services.accounts import accounts
from portal.services.brakes import brakes
from portal.services.brakes.brakes import Brakes
from portal.services.common.audit import SHELL
from portal.services.messages import intake
from portal.smsc.protocol.constants import CommandStatus
from tests.smsc.esme import RawEsme, get_account_config, run_smsc, wait_until
from tests.support import list_submitted, prepare_submit

FRENCH = "33612345678"


@pytest.fixture
def set_brakes(conn, cast):
    """Sets an operator's brakes of smpp-acme-1."""
    account = accounts.get_account(conn, cast.smpp_acme_1.name)

    def set_brakes(**fields):
        brakes.set_brakes(conn, SHELL, account, Brakes(**fields))

    return set_brakes


@pytest.fixture
def half_past_noon(monkeypatch):
    """Messages come at half past noon in UTC: counts by the hour and the day begin anew on the hour."""
    until = (12 * HOUR_MS + HOUR_MS // 2 - now_ms()) % DAY_MS
    for module in ("portal.services.common.ids", "portal.smsc.storage.sqlite_outbound"):
        monkeypatch.setattr(f"{module}.now_ms", lambda: now_ms() + until)


async def test_countries_hold_at_once_on_open_connections_and_refusals_are_counted(config, cast, conn, set_brakes):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(FRENCH)).status == 0
        set_brakes(countries=frozenset(("IT",)))
        await wait_until(lambda: get_account_config(server, cast.smpp_acme_1.name).countries is not None)
        for _ in range(3):
            assert (await esme.submit(FRENCH)).status == CommandStatus.ESME_RINVDSTADR
        assert (await esme.submit()).status == 0
        await wait_until(lambda: brakes.list_refused_messages(conn, cast.smpp_acme_1.id))
    (refused,) = brakes.list_refused_messages(conn, cast.smpp_acme_1.id)
    assert (refused.reason, refused.value, refused.count) == ("country", "FR", 3)
    assert len(list_submitted(conn, cast.smpp_acme_1.id)) == 2


@pytest.mark.usefixtures("half_past_noon")
@pytest.mark.parametrize("limit", ["day_messages", "day_credits", "hour_messages"])
async def test_a_limit_holds_over_a_restart_and_a_higher_one_at_once(config, cast, conn, set_brakes, limit):
    unit = 1000 if limit == "day_credits" else 1
    set_brakes(**{limit: 3 * unit})
    statuses = []
    for count in (2, 3):
        async with run_smsc(config) as server:
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            statuses += [(await esme.submit()).status for _ in range(count)]
    assert statuses == [0, 0, 0, CommandStatus.ESME_RSUBMITFAIL, CommandStatus.ESME_RSUBMITFAIL]
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit()).status == CommandStatus.ESME_RSUBMITFAIL
        set_brakes(**{limit: 4 * unit})
        assert [(await esme.submit()).status for _ in range(2)] == [0, CommandStatus.ESME_RSUBMITFAIL]
    assert accounts.get_account(conn, cast.smpp_acme_1.name).balance == 996_000


@pytest.mark.usefixtures("half_past_noon")
@pytest.mark.parametrize("limit", [{"day_messages": 150}, {"hour_messages": 150}], ids=["a day", "an hour"])
async def test_several_sessions_and_another_process_send_exactly_as_much_together(
    config, cast, conn, set_brakes, change_account, limit
):
    """The server takes its messages while this process stores others of the same account, as a page would."""
    set_brakes(**limit)
    change_account(windowing=0, throughput=0, binds=0)
    async with run_smsc(config) as server:
        esmes = [await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1) for _ in range(3)]

        async def submit_many(esme: RawEsme) -> Counter[int]:
            return Counter([(await esme.submit()).status for _ in range(80)])

        submitting = [asyncio.create_task(submit_many(each)) for each in esmes]
        stored_here = 0
        for _ in range(40):
            submit = prepare_submit(conn, cast.smpp_acme_1.id, destination="393331234567")
            stored_here += intake.store_messages(conn, [submit]).message_ids != [None]
            await asyncio.sleep(0)
        answers = sum(await asyncio.gather(*submitting), Counter())
    assert answers[0] + stored_here == 150 == len(list_submitted(conn, cast.smpp_acme_1.id))
    assert answers == {0: 150 - stored_here, CommandStatus.ESME_RSUBMITFAIL: 240 - 150 + stored_here}
    assert stored_here
