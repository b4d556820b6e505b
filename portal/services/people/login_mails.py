"""Mails to people about their own login, so that they see what a stranger does with it."""

import sqlite3

from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.i18n import N_
from portal.services.common import mail
from portal.services.people.user_agents import describe_user_agent
from portal.services.people.users import User

SET_UP = N_("Your login was set up with a new password and authenticator app")
NEW_PASSWORD = N_("Your password was changed")
NEW_AUTHENTICATOR = N_("Your login was moved to another authenticator app")
NEW_RECOVERY_CODES = N_("New recovery codes were made for your login")
NEW_BROWSER = N_("Login with a new browser")


def queue_login_mail(
    conn: sqlite3.Connection, keys: Keys, user: User, event: str, address: str, user_agent: str | None = None
) -> None:
    """Tell a user what has happened to their login, in the caller's transaction.

    Args:
        event: one of this module's sentences.
        address: where the request came from.
        user_agent: the browser's header, of which known names are told; None: nothing is.
    """
    language, browser = read_language(conn, user), None if user_agent is None else describe_user_agent(user_agent)
    mail.queue_mail(
        conn, keys, user.email, "login", language, event=event, at=now_ms(), address=address, browser=browser
    )


def read_language(conn: sqlite3.Connection, user: User) -> str | None:
    """The user's language, or else the customer's: that of the page may be a stranger's."""
    query = (
        "SELECT ifnull(users.language, customers.language) FROM users"
        " LEFT JOIN customers ON customers.id = users.customer_id WHERE users.id = ?"
    )
    language: str | None = conn.execute(query, (user.id,)).fetchone()[0]
    return language
