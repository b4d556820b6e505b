"""Texts that are cut into parts, as the client gets them."""

from collections import deque
from typing import Any

from portal.services.messages.validation import SubmittedMessage
from portal.services.upstreams.settings import UpstreamSettings
from portal.smsc.protocol.constants import CommandStatus
from portal.smsc.upstream.smpp_client.submit_sm import split_text
from portal.smsc.upstream.smpp_client.upstream import CutTexts
from tests.smsc.esme import wait_until
from tests.smsc.upstream.smpp_client.carrier import run_bound_client, submit_all

SETTINGS = UpstreamSettings()


class CountedDeque(deque[Any]):
    """Counts how much is looked at of it."""

    look_count = 0

    def __iter__(self):
        for each in super().__iter__():
            self.look_count += 1
            yield each


def send_text(texts: CutTexts, message_id: int, *, is_retry: bool = False) -> None:
    destination = f"39333{message_id:07}"
    message = SubmittedMessage(1, "ACME", 5, 0, destination, "IT", "a" * 300, None, 0, 0, None, 1, 2)
    message.id, message.is_retry = message_id, is_retry
    texts.send(message, split_text(message, SETTINGS), SETTINGS)


async def test_many_texts_are_taken_back_at_once():
    async with run_bound_client(window=2) as (client, _, connection, __):
        events: Any = None  # nothing is told of what is taken back
        texts = CutTexts(client, events)
        submit_all(client, [1])
        send_text(texts, 2)
        await connection.read_submits(2)
        submit_all(client, [3])
        for each in range(4, 204):
            send_text(texts, each)
        (session,) = client.sessions
        session.pending = pending = CountedDeque(session.pending)
        assert len(pending) == 402
        # Of the second one a part has gone out already.
        assert texts.cancel_messages(range(1, 205)) == [*range(3, 204)]
        assert [(each.message_id, each.number) for each in session.pending] == [(2, 2)]
        assert pending.look_count <= 2 * len(pending)
        assert texts.cancel_messages(range(1, 205)) == []


async def test_a_text_that_is_tried_again_slows_down_nobody():
    async with run_bound_client(throughput=1_000) as (client, _, carrier, __):
        events: Any = None  # no part is decided
        send_text(CutTexts(client, events), 1, is_retry=True)
        carrier.answer(await carrier.read_submit(), CommandStatus.ESME_RMSGQFUL, "")
        await wait_until(lambda: client.counters["throttled"])
        assert client.rate == 1_000
