"""This program as its own upstream."""

from dataclasses import replace
from itertools import islice

from portal.services.common.message_states import DELIVERED
from portal.services.upstreams.settings import DEFAULTS
from portal.smsc.protocol.pdu import DeliverSm, SubmitSm
from portal.smsc.upstream.smpp_client.connector import BindStatus
from portal.smsc.upstream.smpp_client.deliver_sm import parse_receipt
from tests.smsc.esme import run_smsc, wait_until
from tests.smsc.upstream.smpp_client.carrier import run_client, submit
from tests.support import find_free_port


def build_submit(text: str, registered_delivery: int = 1, destination: str = "393331234567") -> SubmitSm:
    return SubmitSm(
        0,
        source="ACME",
        source_ton=5,
        dest_ton=1,
        dest_npi=1,
        destination=destination,
        registered_delivery=registered_delivery,
        short_message=text.encode(),
    )


async def test_messages_and_their_receipts_over_tls(config, cast, change_account):
    change_account(windowing=0, throughput=0)
    login = cast.smpp_acme_1
    settings = {"system_id": login.name, "password": login.password, "tls_ca_file": f"{config.data}/smpp.crt"}
    async with (
        run_smsc(config) as server,
        run_client(server.tls_port, tls=True, window=50, bind="tx+rx", **settings) as (client, reports),
    ):
        await reports.wait_for(lambda: all(each.state == BindStatus.BOUND for each in client.bind_states))
        for each in range(50):
            submit(client, each, build_submit(f"text {each}"))
        await reports.wait_for(lambda: len(reports.answers) == 50 and len(reports.deliveries) == 50)
        assert [(each, status) for each, status, _ in reports.answers] == [(each, 0) for each in range(50)]
        receipts = [parse_receipt(each, 1, DEFAULTS) for each in reports.deliveries]
        assert {each.message_ids for each in receipts if each} == {
            (upstream_id,) for _, _, upstream_id in reports.answers
        }
        assert {(each.state, each.is_final, each.status) for each in receipts if each} == {
            (DELIVERED, True, "stat:DELIVRD err:0")
        }
        assert all(isinstance(each, DeliverSm) for each in reports.deliveries)


async def test_its_throttling_loses_nothing(config, cast, conn, connect, change_account):
    change_account(windowing=5, throughput=0)
    login = cast.smpp_acme_1
    settings = {"system_id": login.name, "password": login.password, "throttle_seconds": 0.02, "throughput": 1_000}
    async with run_smsc(config) as server, run_client(server.port, window=20, **settings) as (client, reports):
        to_send = iter(range(200))

        def send_more():
            for each in islice(to_send, client.room):
                submit(client, each, build_submit(str(each), 0, f"39333{each:07d}"))

        # As long as nothing can be written nothing is answered, and the sixth is too much.
        other = connect()
        other.execute("BEGIN IMMEDIATE")
        reports.on_room = send_more
        await wait_until(lambda: client.counters["throttled"])
        other.execute("COMMIT")
        await reports.wait_for(lambda: len(reports.answers) == 200)
        assert {status for _, status, _ in reports.answers} == {0}
    assert conn.execute("SELECT count(*) FROM messages").fetchone()[0] == 200


async def test_a_restart_under_load_loses_nothing(config, cast, conn, change_account):
    change_account(windowing=0, throughput=0)
    config = replace(config, smpp=replace(config.smpp, port=find_free_port()))
    login = cast.smpp_acme_1
    async with run_client(config.smpp.port, system_id=login.name, password=login.password) as (client, reports):
        to_send = list(reversed(range(300)))

        def send_more():
            while to_send and client.room:
                each = to_send.pop()
                submit(client, each, build_submit(str(each), 0))

        reports.on_room = send_more
        async with run_smsc(config):
            await reports.wait_for(lambda: len(reports.answers) > 100)
        async with run_smsc(config):
            await reports.wait_for_state(BindStatus.UNBOUND)
            await reports.wait_for(
                lambda: len(reports.answers) + len(reports.unsure) + len(reports.unsent) == 300 and client.room == 10
            )
        # It answers what it has taken, and refuses what comes behind its unbind.
        stored = {row[0] for row in conn.execute("SELECT text FROM messages")}
        assert {str(each) for each, status, _ in reports.answers if status == 0} <= stored
        assert reports.unsent == []
        assert len(reports.unsure) <= 10
