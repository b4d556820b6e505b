"""The numbers by which handsets know which parts are of one text."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from portal.services.common import ids
from portal.services.messages.message_parts import CutText
from portal.services.upstreams.settings import UpstreamSettings
from portal.smsc.upstream.smpp_client import upstream
from portal.smsc.upstream.smpp_client.submit_sm import split_text
from portal.smsc.upstream.smpp_client.upstream import CutTexts, get_cut_settings
from tests.smsc.upstream.smpp_client.carrier import run_bound_client
from tests.support import prepare_submit

TO_ONE, TO_ANOTHER = "393401234567", "393401234568"
FIRST_ID = ids.min_id_at_time(1_800_000_000_000)


def get_later_id(milliseconds: int) -> int:
    return FIRST_ID + ids.id_span(milliseconds)


@pytest.fixture
def send_texts(conn, cast):
    """Sends texts of two parts, each given as its id and destination, and returns the reference of each. `begun`: of
    the first one the carrier has the first part.
    """

    async def send(texts: Sequence[tuple[int, str]], begun: CutText | None = None) -> list[int]:
        async with run_bound_client(window=1000) as (client, _, carrier, _):
            no_events: Any = None  # no part is answered, so nothing is told of them
            sender = CutTexts(client, no_events)
            references = []
            for (message_id, destination), cut in zip(texts, [begun, *[None] * len(texts)], strict=False):
                message = prepare_submit(conn, cast.smpp_acme_1.id, b"x" * 200, destination=destination)
                message.id, message.cut = message_id, cut
                settings = get_cut_settings(message, UpstreamSettings(long_texts="udh8"))
                sender.send(message, split_text(message, settings), settings)
                submits = await carrier.read_submits(1 if cut else 2)
                assert len({each.short_message[3] for each in submits}) == 1
                references.append(submits[0].short_message[3])
            return references

    return send


async def test_texts_to_one_handset_have_different_numbers_however_they_come(send_texts):
    # Every 256 milliseconds.
    references = await send_texts([(get_later_id(256 * each), TO_ONE) for each in range(20)])
    assert all(len({*references[each : each + 9]}) == 9 for each in range(11))


async def test_texts_of_the_same_moment_have_different_numbers(send_texts):
    assert len({*await send_texts([(FIRST_ID + each, str(393401234000 + each)) for each in range(256)])}) == 256


async def test_a_text_that_is_sent_again_has_the_number_that_it_had(send_texts):
    other = (get_later_id(256), TO_ONE)
    first, second, again, first_again = await send_texts([(FIRST_ID, TO_ONE), other, other, (FIRST_ID, TO_ONE)])
    assert (second, again, first_again) == (first + 1, first + 1, first)


@pytest.mark.parametrize(("stored", "expected"), [({"reference": 77}, 77), ({"long_texts": "udh8"}, None)])
async def test_the_other_parts_of_a_text_have_the_number_of_those_that_were_accepted(send_texts, stored, expected):
    (derived,) = await send_texts([(FIRST_ID, TO_ONE)])
    begun = CutText(1, 2, json.dumps(stored), frozenset({1}))
    (reference,) = await send_texts([(FIRST_ID, TO_ONE)], begun)
    assert reference == (derived if expected is None else expected)


async def test_a_text_after_one_that_was_begun_earlier_has_another_number(send_texts):
    begun = CutText(1, 2, "{}", frozenset({1}))
    assert len({*await send_texts([(FIRST_ID, TO_ONE), (get_later_id(256), TO_ONE)], begun)}) == 2


async def test_no_more_handsets_are_known_than_so_many(send_texts, monkeypatch):
    monkeypatch.setattr(upstream, "_MAX_KNOWN_DESTINATIONS", 1)
    texts = [(FIRST_ID, TO_ONE), (get_later_id(256), TO_ANOTHER), (get_later_id(512), TO_ONE)]
    assert len({*await send_texts(texts)}) == 1
