"""What was refused of an account, in words, and what helps: its binds and messages, as they would be answered now."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from portal.core.clock import DAY_MS, now_ms
from portal.core.i18n import N_, format_number, gettext
from portal.services.accounts import (
    allowed_ips,
    credentials,
    refusals,
    refused_binds,
    refused_messages,
    session_records,
)
from portal.services.accounts.accounts import ERROR, OPTIONAL_DATA_CODINGS, Account
from portal.services.accounts.refusals import OTHERS, RefusalGroup
from portal.services.brakes import brakes
from portal.services.common.addresses import normalize_address
from portal.services.common.errors import Refused
from portal.services.prices import countries, prices
from portal.services.senders import senders
from portal.services.statistics import daily_totals
from portal.services.upstreams import upstreams

# Messages that are refused, or never sent, and are in the history: counted in days' totals, and not by their hour.
NO_CREDITS, BLACKLISTED = "no_credits", "blacklisted"

# What helps, beside asking the operator.
AUTHORISE = "authorise"
NEW_PASSWORD = "new_password"
SESSIONS = "sessions"
ADD_SENDER, SEE_SENDER = "add_sender", "see_sender"
OWN_BRAKES = "own_brakes"
ADD_CREDITS = "add_credits"
BLACKLIST = "blacklist"

_WEIGHTIEST_MS = DAY_MS
MANY = 300
"""Pages explain so many, and count the others."""

_TEXTS = {
    refused_messages.SENDER: N_("The sender %(value)s isn't approved."),
    refused_messages.DESTINATION: N_("The recipient is no number in international form, such as 393401234567."),
    refused_messages.NATIONAL_NUMBER: N_("The recipient is a national number (TON 2), which this account may not use."),
    refused_messages.PRICE: N_("There is no price for %(value)s, so nothing is sent there."),
    refused_messages.ROUTE: N_("No route leads to %(value)s."),
    refused_messages.CODING: N_("data_coding %(value)s isn't supported: use 0 (GSM 03.38) or 8 (UCS-2)."),
    refused_messages.TEXT: N_("The text can't be decoded as its data_coding (%(value)s) says."),
    refused_messages.LENGTH: N_("The text is too long."),
    refused_messages.TIME: N_("schedule_delivery_time or validity_period isn't a time that is still to come."),
    refused_messages.FORMAT: N_("The PDU isn't as SMPP 3.4 has it (%(value)s)."),
    refused_messages.THROUGHPUT: N_("The throughput of %(value)s messages a second was reached."),
    refused_messages.WINDOW: N_("The window of %(value)s unanswered messages was full."),
    refused_messages.SERVER: N_("The server could not store it at that moment. Clients can send it again."),
    NO_CREDITS: N_("The credits didn't cover it."),
    BLACKLISTED: N_("The recipient is on the blacklist."),
}
_STATE_TEXTS = {
    refused_messages.RECEIVER: N_("The session was bound as a receiver, which may not send: bind as a transceiver."),
    refused_messages.ENDING: N_("The session was about to end: the client has to bind again first."),
}
_BRAKE_TEXTS = {
    refused_messages.COUNTRY: N_("This account sends no messages to %(value)s."),
    refused_messages.DAY_MESSAGES: N_("The most messages a day were reached."),
    refused_messages.DAY_CREDITS: N_("The most credits a day were reached."),
    refused_messages.HOUR_MESSAGES: N_("The most messages an hour to one number were reached."),
}
_NO_SENDER_TEXT = N_("The message names no sender.")
_OTHER_SENDERS_TEXT = N_("Other senders that aren't approved.")
_WITH_COUNTRY = (refused_messages.PRICE, refused_messages.ROUTE, refused_messages.COUNTRY)
# By the brake's field.
_ASK_FOR_BRAKE = {refused_messages.COUNTRY: "countries"} | {each: each for each in brakes.LIMIT_TEXTS}


@dataclass(frozen=True, slots=True)
class ExplainedRefusal:
    """Refused binds or messages, and what helps.

    `text`: why, in the language in use. `remedy`: what the account's people can do, a constant of this module; empty:
    nothing on a page. `ask_for`: what they may ask the operator for, as `account_requests` names it; empty: nothing.
    `is_resolved`: it would be accepted now. `replaced_at`: when (milliseconds) the password was replaced that a client
    uses, where that is the reason and is still known.
    """

    group: RefusalGroup
    text: str
    remedy: str = ""
    ask_for: str = ""
    is_resolved: bool = False
    replaced_at: int | None = None


def describe_refusal(*, is_bind: bool, reason: str, value: str) -> str:
    """Why something was refused, in the language in use, without a look at the account."""
    if is_bind:
        return gettext(refused_binds.REASON_TEXTS[reason])
    if reason == refused_messages.STATE:
        return gettext(_STATE_TEXTS.get(value, _STATE_TEXTS[refused_messages.ENDING]))
    if reason == refused_messages.SENDER and not value:
        return gettext(_NO_SENDER_TEXT)
    if value == OTHERS:
        return gettext(_OTHER_SENDERS_TEXT)
    if reason in _WITH_COUNTRY:
        value = countries.get_country_name(value)
    elif value.isdigit() and reason in (refused_messages.THROUGHPUT, refused_messages.WINDOW):
        value = format_number(int(value))
    return gettext((_TEXTS | _BRAKE_TEXTS)[reason], value=value)


def describe_group(group: RefusalGroup) -> str:
    """Why binds or messages were refused, as `describe_refusal` says it."""
    return describe_refusal(is_bind=group.is_bind, reason=group.reason, value=group.value)


def list_explained_refusals(
    conn: sqlite3.Connection,
    account: Account,
    since: int,
    until: int | None = None,
    *,
    is_bind: bool | None = None,
    most: int | None = None,
) -> list[ExplainedRefusal]:
    """An account's refused binds and messages by reason and value, the latest first; with those that the history has.

    Args:
        since, until: milliseconds; of hours, and of days (UTC) where only these are counted, the whole. None: now.
        is_bind: only binds, or only messages.
        most: so many are explained, those that were refused most often; the others have no text. None: all.
    """
    # Until the end of this day: in the morning most of it is still to come.
    until = (now_ms() // DAY_MS + 1) * DAY_MS if until is None else until
    groups = refusals.list_refusals(conn, account.id, since, until, is_bind=is_bind)
    if not is_bind:
        groups += list_refusals_in_history(conn, account.id, since, until)
    look = _AccountLook(conn, account)
    groups.sort(key=lambda each: -each.count)
    # Of ever new senders there may be tens of thousands, and a page shows a few.
    explained = [look.explain(each) for each in groups[:most]] + [
        ExplainedRefusal(each, "") for each in groups[len(groups[:most]) :]
    ]
    return sorted(explained, key=lambda each: -each.group.last_at)


def list_weightiest_refusals(conn: sqlite3.Connection, account: Account) -> list[ExplainedRefusal]:
    """Of the last 24 hours what would be refused still, the weightiest first: binds where nobody is connected, as
    nothing gets through then, and what was refused most often. Of more than MANY the rarest come last, without a text.
    """
    explained = list_explained_refusals(conn, account, now_ms() - _WEIGHTIEST_MS, most=MANY)
    is_connected = bool(session_records.list_open_smpp_sessions(conn, account.id, 1))
    open_refusals = [each for each in explained if not each.is_resolved and each.group.reason != BLACKLISTED]
    return sorted(
        open_refusals,
        key=lambda each: (
            not each.text,
            is_connected or not each.group.is_bind,
            -each.group.count,
            -each.group.last_at,
        ),
    )


def get_days_of_period(since: int, until: int) -> tuple[int, int]:
    """The first and the last day (UTC, since 1970) of a period in milliseconds. In a time zone days begin some hours
    earlier or later than in UTC: those of which the period has the greater part are meant, one at least, and this day
    where it isn't over: what was refused a moment ago is in it.
    """
    now = now_ms()
    today = now // DAY_MS
    first, last = (since + DAY_MS // 2) // DAY_MS, (until + DAY_MS // 2) // DAY_MS - 1
    first = min(first, today)
    return first, max(last, first, today if until > now else 0)


def list_refusals_in_history(
    conn: sqlite3.Connection, account_id: int, since: int, until: int
) -> Iterator[RefusalGroup]:
    """What the history has of a period (milliseconds), from days' totals."""
    first, last = get_days_of_period(since, until)
    days = daily_totals.list_daily_totals(conn, account_id, now_ms() // DAY_MS - first + 1)
    days = [(at, counts) for at, counts in days if at // DAY_MS <= last]
    for reason, name in ((NO_CREDITS, "refused"), (BLACKLISTED, "stopped")):
        found = [(at, getattr(counts, name)) for at, counts in days if getattr(counts, name)]
        if found:
            last_at = min(found[-1][0] + DAY_MS - 1, now_ms())
            count = sum(count for _, count in found)
            yield RefusalGroup(account_id, False, reason, "", count, found[0][0], last_at)


@dataclass
class _AccountLook:
    """An account as it is now, read as far as something asks for it."""

    conn: sqlite3.Connection
    account: Account

    @cached_property
    def _entries(self) -> list[allowed_ips.AllowedIP]:
        return allowed_ips.list_allowed_ips(self.conn, self.account.id)

    @cached_property
    def _password_changed_at(self) -> int:
        password = credentials.find_smpp_password_info(self.conn, self.account.id)
        return password.changed_at if password else 0

    @cached_property
    def _session_count(self) -> int:
        return len(session_records.list_open_smpp_sessions(self.conn, self.account.id, self.account.binds or 1))

    @cached_property
    def _bound_at_by_address(self) -> dict[str, int]:
        """When the latest of the open sessions was bound, by the client's address."""
        sessions = session_records.list_open_smpp_sessions(self.conn, self.account.id)
        return {each.address: each.bound_at for each in sorted(sessions, key=lambda each: each.bound_at)}

    @cached_property
    def _sender_statuses(self) -> dict[str, str]:
        return {each.address: each.status for each in senders.list_senders(self.conn, self.account.id)}

    @cached_property
    def _price_list(self) -> prices.PriceList:
        return prices.load_account_price_list(self.conn, self.account.id, now_ms())

    @cached_property
    def _brakes(self) -> brakes.AccountBrakes:
        return brakes.get_brakes(self.conn, self.account.id)

    @cached_property
    def _has_default_upstream(self) -> bool:
        listed = upstreams.list_upstreams(self.conn)
        return not listed or any(each.is_default for each in listed)

    def explain(self, group: RefusalGroup) -> ExplainedRefusal:
        """Say why it was refused, and what helps."""
        text = describe_group(group)
        if group.is_bind:
            replaced_at = refused_binds.find_password_replacement(self.conn, group)
            return ExplainedRefusal(group, text, *self._find_bind_remedy(group), replaced_at)
        if group.reason in _ASK_FOR_BRAKE:
            return self._explain_brake(group, text)
        if group.reason == refused_messages.SENDER:
            return self._explain_sender(group, text)
        return ExplainedRefusal(group, text, *self._find_message_remedy(group))

    def _find_bind_remedy(self, group: RefusalGroup) -> tuple[str, str, bool]:
        """The remedy, what to ask for, and whether it is resolved."""
        if group.reason in (refused_binds.NOT_AUTHORISED, refused_binds.NO_IP) and group.value != OTHERS:
            is_resolved = allowed_ips.is_ip_allowed(self._entries, group.value)
            return "" if is_resolved else AUTHORISE, "", is_resolved
        if group.reason in (refused_binds.WRONG_PASSWORD, refused_binds.REPLACED_PASSWORD):
            # A newer password may exist already: it only has to reach the client. Or the client has got the right one.
            mended_at = max(self._password_changed_at, self._bound_at_by_address.get(group.value, 0))
            is_resolved = mended_at > group.last_at
            return "" if is_resolved else NEW_PASSWORD, "", is_resolved
        if group.reason == refused_binds.TOO_MANY_BINDS:
            is_resolved = not self.account.binds or self._session_count < self.account.binds
            return "" if is_resolved else SESSIONS, "binds", is_resolved
        if group.reason == refused_binds.ACCOUNT_DISABLED:
            return "", "account", self.account.status != ERROR
        if group.reason == refused_binds.THROTTLED:
            return "", "", self._bound_at_by_address.get(group.value, 0) > group.last_at
        return "", "", False

    def _find_message_remedy(self, group: RefusalGroup) -> tuple[str, str, bool]:
        reason, value, account = group.reason, group.value, self.account
        if value == OTHERS:
            return "", "", False
        if reason == refused_messages.PRICE:
            return "", "price", self._has_price(value)
        if reason == refused_messages.ROUTE:
            return "", "route", self._has_default_upstream
        if reason == refused_messages.CODING:
            is_optional = value.isdigit() and int(value) in OPTIONAL_DATA_CODINGS
            return "", "coding" if is_optional else "", value.isdigit() and int(value) in account.data_codings
        if reason in (refused_messages.THROUGHPUT, refused_messages.WINDOW):
            subject = "throughput" if reason == refused_messages.THROUGHPUT else "windowing"
            limit = getattr(account, subject)
            return "", subject, not limit or (value.isdigit() and limit > int(value))
        if reason == NO_CREDITS:
            return ADD_CREDITS, "", account.balance > 0
        return BLACKLIST if reason == BLACKLISTED else "", "", False

    def _has_price(self, country: str) -> bool:
        """Whether all of a country's numbers have one: a range may be closed."""
        closed = [prefix for prefix, price in self._price_list.ranges.items() if price is None]
        return self._price_list.countries.get(country) is not None and not any(
            countries.find_prefix_country(prefix) == country for prefix in closed
        )

    def _explain_sender(self, group: RefusalGroup, text: str) -> ExplainedRefusal:
        source, statuses = group.value, self._sender_statuses
        status = statuses.get(source) or statuses.get(normalize_address(source))
        if self.account.any_sender or status == senders.ENABLED:
            return ExplainedRefusal(group, text, is_resolved=True)
        if status is not None:
            return ExplainedRefusal(group, text, SEE_SENDER)
        if source in ("", OTHERS):
            return ExplainedRefusal(group, text)
        try:
            senders.parse_sender(source)
        except Refused as refused:
            return ExplainedRefusal(group, f"{text} {refused.localized()}")
        return ExplainedRefusal(group, text, ADD_SENDER)

    def _explain_brake(self, group: RefusalGroup, text: str) -> ExplainedRefusal:
        reason, value = group.reason, group.value
        explained = brakes.explain_refusal(reason, value, self._brakes.in_force)
        if not explained:
            return ExplainedRefusal(group, text, is_resolved=True)
        # Where the operator's alone would let it through, the owner's are what refuses it.
        if self._is_own_brake(reason, value):
            return ExplainedRefusal(group, explained, OWN_BRAKES)
        return ExplainedRefusal(group, explained, ask_for=_ASK_FOR_BRAKE[reason])

    def _is_own_brake(self, reason: str, country: str) -> bool:
        operator, own = self._brakes.operator, self._brakes.own
        if reason == refused_messages.COUNTRY:
            return operator.countries is None or country in operator.countries
        own_limit, operator_limit = getattr(own, reason), getattr(operator, reason)
        return own_limit is not None and (operator_limit is None or own_limit < operator_limit)
