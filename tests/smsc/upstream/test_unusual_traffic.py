"""An account that is held for unusual traffic while its client sends."""

from dataclasses import replace

from portal.services.accounts import accounts
from portal.services.brakes import brakes, unusual_traffic
from portal.services.brakes.brakes import Brakes
from portal.services.brakes.unusual_traffic import OURS, TrafficWatch
from portal.services.common.audit import SHELL
from tests.smsc.esme import RawEsme, wait_until
from tests.smsc.upstream.running import count_waiting, run_bound


async def test_what_is_unusual_holds_the_account_while_it_sends_and_an_answer_lets_it_go_on(
    config, cast, conn, keys, add_upstream
):
    """The pages' process looks, and holds; the server goes on to accept and charge, and sends nothing of it."""
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    brakes.set_brakes(conn, SHELL, account, Brakes(unusual=brakes.HOLD))
    watch = TrafficWatch(replace(config.brakes, consecutive_numbers=3), keys)
    async with run_bound(config, add_upstream) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for number in range(4):
            assert (await esme.submit(f"39333123456{number}")).status == 0
            connection.answer(await connection.read_submit())
        watch.look(conn)
        await wait_until(lambda: server.dispatcher.held_account_ids)
        assert [(await esme.submit()).status for _ in range(3)] == [0, 0, 0]
        assert count_waiting(conn) == 3
        assert accounts.get_account(conn, account.name).balance == 993_000
        assert unusual_traffic.answer_events(conn, SHELL, account, OURS)
        for _ in range(3):
            connection.answer(await connection.read_submit())
        await wait_until(lambda: not count_waiting(conn))
    (event,) = unusual_traffic.list_open_events(conn)
    assert (event.kind, event.is_held, event.answer) == ("consecutive_numbers", True, "ours")
