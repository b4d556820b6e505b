"""A carrier that does anything at random: each message has exactly one outcome, and nothing overtakes."""

import asyncio
from collections import Counter, defaultdict
from itertools import islice
from random import Random

import pytest

from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import HeaderOnlyPdu, SubmitSm
from portal.smsc.upstream.smpp_client.status_map import THROTTLING_STATUSES
from tests.smsc.upstream.smpp_client.carrier import CarrierConnection, run_carrier, run_client, submit_all

MESSAGES, WINDOW = 300, 5


class RandomCarrier:
    """arrived, accepted: the messages that have come for the first time, and those that it has said to have, by
    destination. most_unanswered: on one connection.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.arrived: dict[str, list[int]] = defaultdict(list)
        self.accepted: dict[str, list[int]] = defaultdict(list)
        self.most_unanswered = 0

    async def serve(self, connection: CarrierConnection) -> None:
        """Answer, or not, until the connection ends."""
        await connection.accept_bind()
        unanswered: list[SubmitSm] = []
        try:
            while True:
                message = await connection.read_pdu()
                if isinstance(message, HeaderOnlyPdu) and message.command == CommandId.UNBIND:
                    connection.send(HeaderOnlyPdu(CommandId.UNBIND_RESP, message.sequence))
                elif isinstance(message, SubmitSm):
                    self._record_arrival(connection, message)
                    unanswered.append(message)
                    self.most_unanswered = max(self.most_unanswered, len(unanswered))
                    self._act(connection, unanswered)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    def _record_arrival(self, connection: CarrierConnection, submit: SubmitSm) -> None:
        arrived, message_id = self.arrived[submit.destination], int(submit.short_message)
        # What is read behind the end of a connection was sent before what has come on another one meanwhile.
        if message_id not in arrived and not connection.writer.is_closing():
            arrived.append(message_id)

    def _act(self, connection: CarrierConnection, unanswered: list[SubmitSm]) -> None:
        random = self._random
        if connection.writer.is_closing():
            return
        while unanswered and (random.random() < 0.7 or len(unanswered) == WINDOW):
            submit = unanswered.pop(random.randrange(len(unanswered)))
            status = random.choices(
                (CommandStatus.ESME_ROK, *THROTTLING_STATUSES, CommandStatus.ESME_RSYSERR), (90, 3, 3, 4)
            )[0]
            if status == CommandStatus.ESME_ROK:
                self.accepted[submit.destination].append(int(submit.short_message))
            connection.answer(submit, status)
            if random.random() < 0.05:
                connection.answer(submit)
        if random.random() < 0.01:
            connection.writer.close()
        elif random.random() < 0.01:
            connection.send(HeaderOnlyPdu(CommandId.UNBIND, 1))
        if unanswered and random.random() < 0.99:
            asyncio.get_running_loop().call_later(0.005, self._act, connection, unanswered)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("binds", [1, 3])
async def test_each_message_has_one_outcome(seed, binds):
    random = Random(seed)
    destinations = {
        each: f"3933300000{random.randrange(4) if random.random() < 0.5 else each}" for each in range(MESSAGES)
    }
    theirs = RandomCarrier(random)
    settings = {"binds": binds, "window": WINDOW, "throughput": 5_000, "throttle_seconds": 0.005}
    async with (
        run_carrier() as carrier,
        run_client(carrier.port, response_seconds=0.3, reconnect_seconds=0.02, **settings) as (client, reports),
    ):

        async def serve_all():
            async with asyncio.TaskGroup() as group:
                while True:
                    group.create_task(theirs.serve(await carrier.wait_for_connection()))

        serving = asyncio.create_task(serve_all())
        to_send = iter(destinations.items())

        def send_more():
            for message_id, destination in islice(to_send, client.room):
                submit_all(client, [message_id], destination)

        def list_decided():
            return [*(each[0] for each in reports.answers), *reports.unsure, *reports.unsent]

        reports.on_room = send_more
        await reports.wait_for(lambda: len(list_decided()) >= MESSAGES)
        serving.cancel()
        outcomes = Counter(list_decided())
    assert sorted(outcomes) == list(range(MESSAGES))
    assert set(outcomes.values()) == {1}
    # What the carrier has is what it said, or unsure; and what it was said to have, it has.
    accepted = {each for ids in theirs.accepted.values() for each in ids}
    assert {each for each, status, _ in reports.answers if status == 0} <= accepted
    assert accepted <= {each for each, status, _ in reports.answers if status == 0} | {*reports.unsure}
    assert theirs.most_unanswered <= WINDOW
    assert any(len(ids) > 1 for ids in theirs.arrived.values())
    assert all(ids == sorted(ids) for ids in theirs.arrived.values()), theirs.arrived
    assert sum(len(ids) for ids in theirs.accepted.values()) == len(accepted)
