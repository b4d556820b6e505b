"""Users: who may log in, for which customer, in which role."""

import sqlite3
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.people import two_factor
from portal.services.people.customers import parse_email

OWNER, MANAGER, VIEWER, OPERATOR = "owner", "manager", "viewer", "operator"
ROLES = (OWNER, MANAGER, VIEWER, OPERATOR)


class UserExists(Refused, field="email"):
    sentence = N_("There is already a user “%(email)s”.")


class NoSuchUser(NotFound, field="email"):
    sentence = N_("There is no user “%(email)s”.")


class InvalidRole(Refused, field="role"):
    sentence = N_("A customer's user is owner, manager or viewer; a user without a customer is operator.")


@dataclass(frozen=True, slots=True)
class User:
    """A person. `customer_id` is None for operators; `language` None until they have chosen one; `enrolled_at`
    (milliseconds) None until they can log in.
    """

    id: int
    customer_id: int | None
    customer_name: str | None
    email: str
    role: str
    language: str | None
    enrolled_at: int | None

    @property
    def enrolled(self) -> bool:
        return self.enrolled_at is not None

    @property
    def is_operator(self) -> bool:
        return self.role == OPERATOR

    @property
    def may_change(self) -> bool:
        """Viewers change nothing."""
        return self.role != VIEWER


USER_COLUMNS = (
    "users.id, users.customer_id, customers.name, users.email, users.role, users.language, users.totp_enrolled_at"
)
SELECT_USERS = f"SELECT {USER_COLUMNS} FROM users LEFT JOIN customers ON customers.id = users.customer_id "


def create_user(
    conn: sqlite3.Connection, keys: Keys, actor: Actor, email: str, role: str, customer_id: int | None
) -> User:
    """Create a user who can't log in yet: `create_enrolment_link` or `enrol_user` comes next.

    Raises:
        InvalidEmail, InvalidRole, UserExists
    """
    email = parse_email(email)
    if role not in ROLES or (role == OPERATOR) != (customer_id is None):
        raise InvalidRole()
    with write_transaction(conn):
        try:
            insert_row(
                conn,
                "users",
                customer_id=customer_id,
                email=email,
                role=role,
                totp_secret=two_factor.new_totp_secret(keys),
                created_at=now_ms(),
            )
        except sqlite3.IntegrityError:
            raise UserExists(email=email) from None
        audit.record_action(conn, actor, "user.add", customer_id=customer_id, email=email, role=role)
        return get_user_by_email(conn, email)


def get_user_by_email(conn: sqlite3.Connection, email: str) -> User:
    """Raises: NoSuchUser"""
    row = conn.execute(SELECT_USERS + "WHERE users.email = ?", (email.strip(),)).fetchone()
    return User(*require_found(row, NoSuchUser(email=email)))


def get_user_by_id(conn: sqlite3.Connection, user_id: int) -> User:
    """Raises: NoSuchUser"""
    row = conn.execute(SELECT_USERS + "WHERE users.id = ?", (user_id,)).fetchone()
    return User(*require_found(row, NoSuchUser(email=user_id)))


def list_users(conn: sqlite3.Connection, customer_id: int | None) -> list[User]:
    """A customer's users; with None the operators."""
    rows = conn.execute(SELECT_USERS + "WHERE users.customer_id IS ? ORDER BY email", (customer_id,))
    return [User(*row) for row in rows]


def set_user_language(conn: sqlite3.Connection, user: User, language: str) -> None:
    conn.execute("UPDATE users SET language = ? WHERE id = ?", (language, user.id))
