"""What customers ask operators for, as only they can change it: limits, prices, routes, an account that is disabled."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from portal.core import i18n
from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import insert_row, update_row, write_transaction
from portal.core.gsm0338 import Encoding
from portal.core.i18n import DEFAULT_LANGUAGE, N_, gettext
from portal.services.accounts.accounts import OPTIONAL_DATA_CODINGS, Account, record_account_action
from portal.services.accounts.refused_messages import DAY_CREDITS, DAY_MESSAGES, HOUR_MESSAGES
from portal.services.brakes import brakes
from portal.services.common import audit, mail, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.people import customers, users
from portal.services.prices import countries, prices

# What can be asked for.
THROUGHPUT, WINDOWING, BINDS = "throughput", "windowing", "binds"
CODING = "coding"
PRICE, ROUTE, COUNTRIES = "price", "route", "countries"
# Beside these the daily limits: DAY_MESSAGES, DAY_CREDITS, HOUR_MESSAGES.
ACCOUNT = "account"
DONE, DECLINED = "done", "declined"
ANSWER_LABELS = {"": N_("Waiting"), DONE: N_("Done"), DECLINED: N_("Declined")}

_TEXTS = {
    THROUGHPUT: N_("More than %(limit)s messages a second for %(account)s"),
    WINDOWING: N_("A window of more than %(limit)s unanswered messages for %(account)s"),
    BINDS: N_("More sessions at the same time than %(limit)s for %(account)s"),
    CODING: N_("Messages of %(account)s with data_coding %(value)s"),
    PRICE: N_("A price for %(country)s, for %(account)s"),
    ROUTE: N_("A route to %(country)s for %(account)s"),
    COUNTRIES: N_("Messages of %(account)s to %(country)s"),
    DAY_MESSAGES: N_("More than %(limit)s messages a day for %(account)s"),
    DAY_CREDITS: N_("More than %(limit)s credits a day for %(account)s"),
    HOUR_MESSAGES: N_("More than %(limit)s messages an hour to one number for %(account)s"),
    ACCOUNT: N_("That %(account)s is enabled again"),
}
SUBJECTS = tuple(_TEXTS)
_OF_SMPP = (THROUGHPUT, WINDOWING, BINDS, CODING)
_ACCOUNT_LIMITS = (THROUGHPUT, WINDOWING, BINDS)
_BRAKES = (DAY_MESSAGES, DAY_CREDITS, HOUR_MESSAGES)
_OF_COUNTRIES = (PRICE, ROUTE, COUNTRIES)
WITH_VALUE = (*_OF_COUNTRIES, CODING)
"""What is asked for of one country, or data_coding."""
_CODING_NAMES = {Encoding.ASCII: "ASCII", Encoding.LATIN_1: "Latin-1", Encoding.BINARY: N_("binary")}
# Where operators change it, on an account's page.
_TILES = dict.fromkeys((COUNTRIES, *_BRAKES), "brakes") | dict.fromkeys(_OF_SMPP, "limits") | {ACCOUNT: "status"}

_MAX_TEXT_LENGTH = 500
_MAX_REQUESTS_PER_DAY = 10
# Of an account: somebody reads each of them.
_MAX_OPEN = 20


class NoSuchRequest(NotFound, field="id"):
    sentence = N_("There is no request %(id)s.")


class NoSuchSubject(NotFound, field="subject"):
    sentence = N_("“%(subject)s” is nothing that operators can be asked for.")


class NothingToAsk(Refused):
    sentence = N_("There is nothing to ask for any more: it has been changed meanwhile.")


class AskedAlready(Refused):
    """`at`: when, in milliseconds."""

    sentence = N_("That was asked for already, and waits for an answer.")

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def localized(self) -> str:
        when = i18n.format_relative_time(self.at, now_ms())
        return gettext("That was asked for already (%(when)s), and waits for an answer.", when=when)


class TooManyOpenRequests(Refused):
    sentence = N_("%(limit)s requests of this account wait for an answer already.")


class RequestAnswered(Refused):
    sentence = N_("Somebody has answered this already.")


class RequestTextTooLong(Refused):
    sentence = N_("At most %(length)s characters.")


@dataclass(frozen=True, slots=True)
class AccountRequest:
    """Something that was asked for, with the names of its account and customer. Times in milliseconds.

    `value` is a country's code or a data_coding, or empty; `limit_then`: the limit as it was then, `day_credits` in
    thousandths. `answer` is DONE or DECLINED, and empty while it waits; `comment` is the operator's.
    """

    id: int
    account_id: int
    subject: str
    value: str
    limit_then: int | None
    note: str
    asked_at: int
    asked_by: str
    answer: str
    comment: str
    answered_at: int | None
    answered_by: str | None
    account: str
    customer_id: int
    customer: str
    price_list_id: int

    def describe(self) -> str:
        """What is asked for, in the language in use."""
        return _describe(self.account, self.subject, self.value, self.limit_then)

    @property
    def place(self) -> str:
        """The path of the page where operators change it."""
        if self.subject == PRICE:
            path = f"/admin/prices/{self.price_list_id}"
            return path if self.value == countries.INTERNATIONAL else f"{path}/set?destination={self.value}"
        return find_place(self.account, self.subject)


@dataclass(frozen=True, slots=True)
class Question:
    """What may be asked for; see `AccountRequest`. `open_request`: the one that asks for it already."""

    subject: str
    value: str
    limit: int | None
    text: str
    open_request: AccountRequest | None


_SELECT = """
SELECT account_requests.id, account_id, subject, value, limit_then, note, asked_at, asked_by, answer, comment,
       answered_at, answered_by, accounts.name, customers.id, customers.name, coalesce(price_list_id, 1)
FROM account_requests JOIN accounts ON accounts.id = account_id JOIN customers ON customers.id = customer_id
WHERE accounts.deleted_at IS NULL AND
"""


def _select_requests(conn: sqlite3.Connection, conditions: str, *values: object) -> list[AccountRequest]:
    return [AccountRequest(*row) for row in conn.execute(f"{_SELECT} {conditions}", values)]


def _describe(account: str, subject: str, value: str, limit: int | None) -> str:
    words: dict[str, str] = {"account": account}
    if subject in _OF_COUNTRIES:
        words["country"] = countries.get_country_name(value)
    elif subject == CODING:
        words["value"] = f"{value} ({gettext(_CODING_NAMES[Encoding(int(value))])})"
    elif limit is not None:
        words["limit"] = i18n.format_credits(limit) if subject == DAY_CREDITS else i18n.format_number(limit)
    return gettext(_TEXTS[subject], **words)


def find_place(account: str, subject: str) -> str:
    """The path of the page where operators change such a thing of an account; with PRICE those of the default list."""
    if subject == PRICE:
        return "/admin/prices"
    return "/admin/routes" if subject == ROUTE else f"/admin/accounts/{account}#{_TILES[subject]}"


# --- asking


def build_question(conn: sqlite3.Connection, account: Account, subject: str, value: str) -> Question:
    """What can be asked for an account.

    Args:
        value: the country's code, the data_coding; of other subjects it says nothing.

    Raises:
        NoSuchSubject: also where it makes no sense for such an account, or such a value.
        NothingToAsk: it is so already.
    """
    value = _parse_value(account, subject, value)
    limit = _find_limit(conn, account, subject)
    if _is_granted(conn, account, subject, value, limit):
        raise NothingToAsk()
    open_request = find_open_request(list_open_requests(conn, account.id), subject, value)
    return Question(subject, value, limit, _describe(account.name, subject, value, limit), open_request)


def _parse_value(account: Account, subject: str, value: str) -> str:
    if subject not in SUBJECTS or (subject in _OF_SMPP and account.kind != "smpp"):
        raise NoSuchSubject(subject=subject)
    is_valid = True
    if subject in _OF_COUNTRIES:
        # Brakes are set by country; numbers of international networks belong to none.
        is_valid = value in countries.COUNTRIES or (subject != COUNTRIES and value == countries.INTERNATIONAL)
    elif subject == CODING:
        is_valid = value in map(str, sorted(map(int, OPTIONAL_DATA_CODINGS)))
    else:
        value = ""
    if not is_valid:
        raise NoSuchSubject(subject=subject)
    return value


def _find_limit(conn: sqlite3.Connection, account: Account, subject: str) -> int | None:
    """The operator's limit; None: there is none, or it is about something else."""
    if subject in _ACCOUNT_LIMITS:
        return getattr(account, subject) or None
    if subject in _BRAKES:
        limit: int | None = getattr(brakes.get_brakes(conn, account.id).operator, subject)
        return limit
    return None


def _is_granted(conn: sqlite3.Connection, account: Account, subject: str, value: str, limit: int | None) -> bool:
    if subject == ACCOUNT:
        return not account.disabled
    if subject == CODING:
        return int(value) in account.data_codings
    if subject == PRICE:
        return prices.load_account_price_list(conn, account.id, now_ms()).countries.get(value) is not None
    if subject == COUNTRIES:
        allowed = brakes.get_brakes(conn, account.id).operator.countries
        return allowed is None or value in allowed
    # Which routes there will be for a number, only a message shows.
    return subject != ROUTE and limit is None


def ask_operator(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    subject: str,
    value: str,
    note: str = "",
    *,
    mail_keys: Keys | None = None,
) -> AccountRequest:
    """Ask the operators for something that only they can change; they get a mail.

    Args:
        subject, value: see `build_question`.
        note: how much, from when, why.
        mail_keys: seal the mails; None: nobody gets one.

    Raises:
        NoSuchSubject, NothingToAsk, AskedAlready, RequestTextTooLong, TooManyOpenRequests, TooManyAttempts
    """
    note = _parse_text("note", note)
    with write_transaction(conn):
        question = build_question(conn, account, subject, value)
        if question.open_request is not None:
            raise AskedAlready(question.open_request.asked_at)
        if len(list_open_requests(conn, account.id)) >= _MAX_OPEN:
            raise TooManyOpenRequests(limit=_MAX_OPEN)
        rate_limit.take_token(conn, f"ask:{account.id}", _MAX_REQUESTS_PER_DAY, DAY_MS)
        request_id = insert_row(
            conn,
            "account_requests",
            account_id=account.id,
            subject=subject,
            value=question.value,
            limit_then=question.limit,
            note=note,
            asked_at=now_ms(),
            asked_by=actor.name,
        )
        record_account_action(conn, actor, "request.ask", account, subject=subject, value=question.value, note=note)
        asked = get_request(conn, request_id)
        if mail_keys is not None:
            _mail_operators(conn, mail_keys, asked)
        return asked


def _parse_text(field: str, text: str) -> str:
    text = text.strip()
    if len(text) > _MAX_TEXT_LENGTH:
        raise RequestTextTooLong(field=field, length=_MAX_TEXT_LENGTH)
    return text


def _mail_operators(conn: sqlite3.Connection, keys: Keys, request: AccountRequest) -> None:
    for operator in users.list_users(conn, None):
        language = operator.language or DEFAULT_LANGUAGE
        with i18n.override_language(language):
            values = _build_mail_values(request) | {"asked_by": request.asked_by, "place": request.place}
        mail.queue_mail(conn, keys, operator.email, "request_asked", language, **values)


def _build_mail_values(request: AccountRequest) -> dict[str, object]:
    """What both templates show, in the language in use."""
    return {
        "text": request.describe(),
        "account": request.account,
        "customer": request.customer,
        "note": request.note,
    }


# --- answering


def answer_request(
    conn: sqlite3.Connection,
    actor: Actor,
    request_id: int,
    *,
    done: bool,
    comment: str = "",
    mail_keys: Keys | None = None,
) -> AccountRequest:
    """Say that what was asked for is done, or declined; who has asked gets a mail. It changes nothing else.

    Args:
        comment: what the customer reads beside it.
        mail_keys: seal the mail; None: nobody gets one.

    Raises:
        NoSuchRequest, RequestAnswered, RequestTextTooLong
    """
    comment = _parse_text("comment", comment)
    with write_transaction(conn):
        if get_request(conn, request_id).answer:
            raise RequestAnswered()
        answer = DONE if done else DECLINED
        update_row(
            conn,
            "account_requests",
            request_id,
            answer=answer,
            comment=comment,
            answered_at=now_ms(),
            answered_by=actor.name,
        )
        answered = get_request(conn, request_id)
        _record_answer(conn, actor, answered)
        if mail_keys is not None:
            _mail_asker(conn, mail_keys, answered)
        return answered


def _record_answer(conn: sqlite3.Connection, actor: Actor, request: AccountRequest) -> None:
    audit.record_action(
        conn,
        actor,
        "request.done" if request.answer == DONE else "request.decline",
        customer_id=request.customer_id,
        account_id=request.account_id,
        subject=request.subject,
        value=request.value,
        comment=request.comment,
    )


def _mail_asker(conn: sqlite3.Connection, keys: Keys, request: AccountRequest) -> None:
    """To whoever has asked, and to the customer's contact address where they are gone."""
    customer = customers.get_customer_by_id(conn, request.customer_id)
    recipient, language = customer.contact_email, customer.language
    for user in users.list_users(conn, request.customer_id):
        if user.email == request.asked_by:
            recipient, language = user.email, user.language or customer.language
    with i18n.override_language(language):
        values = _build_mail_values(request) | {"is_done": request.answer == DONE, "comment": request.comment}
    mail.queue_mail(conn, keys, recipient, "request_answered", language, **values)


# --- lists


def list_open_requests(
    conn: sqlite3.Connection, account_id: int | None = None, limit: int | None = None
) -> list[AccountRequest]:
    """What waits for an answer, the longest waiting first.

    Args:
        account_id: of this account; None: of all.
        limit: so many at most.
    """
    return _select_requests(
        conn,
        "answer = '' AND (?1 IS NULL OR account_id = ?1) ORDER BY asked_at, account_requests.id LIMIT ?2",
        account_id,
        -1 if limit is None else limit,
    )


def list_requests(conn: sqlite3.Connection, account_id: int | None = None) -> list[AccountRequest]:
    """All of an account (None: of all accounts) that are kept, answered ones too, the latest first."""
    return _select_requests(
        conn, "(?1 IS NULL OR account_id = ?1) ORDER BY asked_at DESC, account_requests.id DESC", account_id
    )


def find_open_request(requests: Iterable[AccountRequest], subject: str, value: str) -> AccountRequest | None:
    """The one among an account's open requests that asks for this already.

    Args:
        value: a country's code, or a data_coding; of other subjects it says nothing.
    """
    value = value if subject in (*_OF_COUNTRIES, CODING) else ""
    return next((each for each in requests if (each.subject, each.value) == (subject, value)), None)


def count_open_requests(conn: sqlite3.Connection) -> int:
    """How many wait for an answer."""
    row = conn.execute(
        "SELECT count(*) FROM account_requests JOIN accounts ON accounts.id = account_id"
        " WHERE answer = '' AND deleted_at IS NULL"
    ).fetchone()
    return int(row[0])


def get_request(conn: sqlite3.Connection, request_id: int) -> AccountRequest:
    """One of anybody's. Raises: NoSuchRequest"""
    found = _select_requests(conn, "account_requests.id = ?", request_id)
    return require_found(next(iter(found), None), NoSuchRequest(id=request_id))


def purge_requests(conn: sqlite3.Connection, before: int) -> None:
    """Delete what was answered before that time (milliseconds), and what was asked before and nobody has answered."""
    conn.execute("DELETE FROM account_requests WHERE coalesce(answered_at, asked_at) < ?", (before,))
