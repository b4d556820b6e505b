"""Reading mails."""

from email.message import EmailMessage


def get_text(mail: EmailMessage, form: str = "plain") -> str:
    """What a mail says in one of its forms: `plain` or `html`."""
    body = mail.get_body((form,))
    assert body is not None
    return str(body.get_content())
