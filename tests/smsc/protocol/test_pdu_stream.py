"""A connection as octets: who sends much at once leaves the others their turns, and a defect ends one connection."""

import asyncio
import socket

import pytest

from portal.smsc.protocol.constants import CommandId
from portal.smsc.protocol.pdu import HeaderOnlyPdu
from portal.smsc.protocol.pdu_stream import PduStream

MANY, LAST = 5_000, 7


class RecordingStream(PduStream):
    """Takes down what it hears, and answers nothing."""

    def __init__(self, sequences):
        super().__init__(slow_reader_seconds=10.0)
        self.sequences = sequences

    @property
    def log_name(self):
        return "a test"

    def _pdu_received(self, header, body):
        self.sequences.append(header.sequence)

    def _may_process_pdu(self, command):
        return True

    def _end_stream(self, malformed):
        self._flush_and_close()

    def _writing_resumed(self):
        pass


async def test_who_sends_much_at_once_leaves_others_their_turn():
    loop = asyncio.get_running_loop()
    heard: list[int] = []
    pairs = [socket.socketpair() for _ in range(2)]
    transports = [(await loop.connect_accepted_socket(lambda: RecordingStream(heard), ours))[0] for ours, _ in pairs]
    (_, flooder), (_, bystander) = pairs
    try:
        flooder.sendall(
            b"".join(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1_000 + number).encode() for number in range(MANY))
        )
        bystander.sendall(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, LAST).encode())
        async with asyncio.timeout(10):
            while len(heard) <= MANY:
                await asyncio.sleep(0)
    finally:
        for transport, (_, theirs) in zip(transports, pairs, strict=True):
            transport.abort()
            theirs.close()
        await asyncio.sleep(0)
    assert heard.index(LAST) < MANY // 5
    assert [each for each in heard if each != LAST] == [1_000 + number for number in range(MANY)]


class DefectiveStream(RecordingStream):
    """Can't process LAST."""

    def _pdu_received(self, header, body):
        if header.sequence == LAST:
            raise ValueError("a defect")


@pytest.mark.parametrize("others", [0, MANY], ids=["at once", "after a pause"])
async def test_a_pdu_that_cannot_be_processed_ends_its_connection(others, caplog):
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    transport, _ = await loop.connect_accepted_socket(lambda: DefectiveStream([]), ours)
    octets = HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1_000).encode() * others
    theirs.setblocking(False)
    try:
        await loop.sock_sendall(theirs, octets + HeaderOnlyPdu(CommandId.ENQUIRE_LINK, LAST).encode())
        async with asyncio.timeout(5):
            assert await loop.sock_recv(theirs, 1) == b""
    finally:
        transport.abort()
        theirs.close()
        await asyncio.sleep(0)
    # What an error says may quote a text.
    (line,) = (each for each in caplog.messages if "could not be processed:" in each)
    assert "ValueError at " in line
    assert "a defect" not in line
