"""A real SMTP server on loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support import find_free_port, wait_until


class Mailbox:
    """An SMTP server that accepts and stores every mail."""

    def __init__(self) -> None:
        self._received: list[EmailMessage] = []
        self._controller = Controller(self, hostname="127.0.0.1", port=find_free_port())

    @property
    def url(self) -> str:
        """The value for the setting `[mail] url`."""
        return f"smtp://127.0.0.1:{self._controller.port}"

    @contextmanager
    def listening(self) -> Iterator["Mailbox"]:
        self._controller.start()
        yield self
        self._controller.stop()

    def wait_for_mail(self) -> EmailMessage:
        """Wait for the next mail, remove it from the mailbox and return it."""
        wait_until(lambda: self._received)
        return self._received.pop(0)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Called by aiosmtpd with each mail."""
        assert isinstance(envelope.content, bytes)
        self._received.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"
