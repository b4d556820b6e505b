"""What the server writes for the page of upstreams: what each does at the moment, and how much of it arrives."""

from collections.abc import Callable

from portal.core import db
from portal.services.upstreams import counters, load
from portal.services.upstreams.load import DeliveryCounts, UpstreamLoad
from tests.smsc.esme import RawEsme, run_smsc, wait_until
from tests.smsc.upstream.running import build_receipt, run_bound
from tests.smsc.upstream.smpp_client.carrier import run_carrier


async def wait_for_load(conn: db.Connection, matches: Callable[[UpstreamLoad], bool]) -> UpstreamLoad:
    await wait_until(lambda: matches(load.list_loads(conn).get(1, UpstreamLoad())))
    return load.list_loads(conn)[1]


async def test_window_rate_and_latency_are_written_each_second(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream, window=5) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        await esme.submit()
        first, second = await connection.read_submits(2)
        measured = await wait_for_load(conn, lambda each: each.window_in_use == 2)
        assert (measured.window, measured.latency_p50, measured.slowed_to) == (5, None, None)
        assert measured.parts_per_second > 0
        connection.answer(first, message_id="a")
        connection.answer(second, message_id="b")
        measured = await wait_for_load(conn, lambda each: each.latency_p99 is not None and not each.window_in_use)
        # They have waited for the first measurement, at least.
        assert measured.latency_p50 is not None
        assert 0 < measured.latency_p50 <= (measured.latency_p99 or 0)
        await esme.close()


async def test_an_idle_upstream_is_not_written_again_and_again(config, conn, add_upstream):
    async with run_bound(config, add_upstream):
        await wait_for_load(conn, lambda each: each.window == 10)
        writes = conn.execute("SELECT total_changes()").fetchone()[0]
        conn.execute("UPDATE upstream_loads SET parts_per_second = 77")
        # Refusals are counted each second, behind what is measured.
        before = conn.execute("PRAGMA data_version").fetchone()[0]
        await wait_until(lambda: conn.execute("PRAGMA data_version").fetchone()[0] != before)
        assert conn.execute("SELECT total_changes()").fetchone()[0] == writes + 1
        assert load.list_loads(conn)[1].parts_per_second == 77


async def test_the_last_error_outlives_a_restart(config, cast, conn, add_upstream):
    async with run_carrier() as carrier:
        add_upstream(carrier.port)
        async with run_smsc(config) as server:
            connection = await carrier.accept()
            esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
            await esme.submit()
            connection.answer(await connection.read_submit(), 0x45)
            measured = await wait_for_load(conn, lambda each: each.last_error != "")
            assert "0x45" in measured.last_error
        # The end may be one, too. Without the server nothing is measured.
        stored = load.list_loads(conn)[1]
        assert stored.last_error_at
        assert stored == UpstreamLoad(last_error=stored.last_error, last_error_at=stored.last_error_at)
        async with run_smsc(config):
            connection = await carrier.accept()
            again = await wait_for_load(conn, lambda each: each.window == 10)
            assert (again.last_error, again.last_error_at) == (stored.last_error, stored.last_error_at)
            assert again.latency_p50 is None


async def test_receipts_and_refusals_are_counted_by_the_hour(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        submits = []
        for upstream_id in ("a", "b", "c"):
            await esme.submit()
            submits.append(await connection.read_submit())
            connection.answer(submits[-1], message_id=upstream_id)
        await esme.submit()
        connection.answer(await connection.read_submit(), 0x45)
        connection.send(build_receipt(submits[0], "a"))
        # One comes twice, and counts once.
        for _ in range(2):
            connection.send(build_receipt(submits[1], "b"))
        connection.send(build_receipt(submits[2], "c", "UNDELIV", "001"))
        await wait_until(lambda: counters.get_counters(conn, 1)["failed"] == 1)
        await wait_until(lambda: counters.get_counters(conn, 1)["undelivered"] == 1)
        rates = load.list_delivery_rates(conn)[1]
        assert rates.hour == rates.days == DeliveryCounts(2, 2)
        assert rates.hour.rate == 0.5
        assert rates.receipts >= 3
        await esme.close()


async def test_a_receipt_before_its_answer_counts_too(config, cast, conn, add_upstream):
    async with run_bound(config, add_upstream) as (server, _, connection):
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit()
        submit = await connection.read_submit()
        connection.send(build_receipt(submit, "a"))
        await wait_until(lambda: counters.get_counters(conn, 1)["unmatched"] == 1)
        connection.answer(submit, message_id="a")
        await wait_until(lambda: counters.get_counters(conn, 1)["delivered"] == 1)
        await esme.close()
