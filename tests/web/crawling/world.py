"""What the crawler meets: an installation with one of everything for each of two customers, and how it has changed."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from portal.core import clock, db
from portal.core.crypto import Keys, hash_token
from portal.services.accounts import accounts, allowed_ips, refused_binds, session_records
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit, orders, packs
from portal.services.brakes import unusual_traffic
from portal.services.brakes.unusual_traffic import BUSY_HOUR, Finding
from portal.services.common.audit import SHELL
from portal.services.common.credit_amounts import THOUSANDTHS
from portal.services.credits import alerts, credits
from portal.services.history import deletion
from portal.services.messages import account_requests, blacklist, inbound, inbound_numbers, sending, trial_messages
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.messages.receipt_matching import UpstreamReceipt
from portal.services.messages.sending import AcceptedMessage
from portal.services.people import authentication, customers, password_hashing, users
from portal.services.prices import price_lists, prices
from portal.services.prices.prices import PriceChange
from portal.services.senders import senders
from portal.services.statistics import rollup
from portal.services.upstreams import binds, traces, unclaimed, upstreams
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.claims import Claim
from tests.documents import PDF
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import add_upstream, queue_messages, queue_of_each
from tests.support import Cast, record_refused_messages
from tests.web import acting

# Stands in whatever belongs to Globex and is nobody's name: where one of Acme sees it, the isolation has a hole.
GLOBEX_WORD = "Zanzibar"
# More than the 25 that a page of a list shows, so that there is a second one.
_MANY = 27
UNLOCK_TOKEN = "the-token-of-a-link-that-lifts-a-lock"


@dataclass(frozen=True)
class Links:
    """One-time links that somebody was sent."""

    enrolment: str
    unlock: str = UNLOCK_TOKEN


def fill(conn: db.Connection, keys: Keys, cast: Cast) -> Links:
    """Give both customers one of everything that a page shows. Acme comes first, so that no id is both's."""
    partners = price_lists.create_price_list(conn, SHELL, "Partners")
    in_a_month = (clock.now_ms() // clock.DAY_MS + 30) * clock.DAY_MS
    prices.change_prices(conn, SHELL, partners.id, [PriceChange("GB", 950), PriceChange("GB", 900, in_a_month)], "UTC")
    price_lists.create_price_list(conn, SHELL, "Nobody's")
    for customer_id, name, word, number in (
        (cast.acme, cast.smpp_acme_1.name, "Anvil", 48484),
        (cast.globex, cast.smpp_globex_1.name, GLOBEX_WORD, 48485),
    ):
        _fill_customer(conn, customer_id, accounts.get_account(conn, name), word, str(number), in_a_month)
    customer = customers.get_customer_by_id(conn, cast.globex)
    price_lists.assign_price_list(conn, SHELL, customer, partners.id)
    acting.confirm_changes(conn)
    for person in (cast.alice, cast.charlie):
        user = users.get_user_by_id(conn, person.id)
        authentication.start_login_session(conn, user, "198.51.100.77", "elsewhere")
        conn.execute(
            "UPDATE users SET password_hash = ? WHERE id = ?",
            (password_hashing.hash_password(person.password), person.id),
        )
    newcomers = [
        users.create_user(conn, keys, SHELL, f"new@{name}.example", users.VIEWER, customer_id)
        for name, customer_id in (("acme", cast.acme), ("globex", cast.globex))
    ]
    link = authentication.create_enrolment_link(conn, newcomers[0])
    db.insert_row(
        conn,
        "unlock_links",
        token_hash=hash_token(UNLOCK_TOKEN),
        user_id=cast.bob.id,
        expires_at=clock.now_ms() + clock.HOUR_MS,
    )
    # As long as the crawler takes.
    session_records.record_component_heartbeat(conn, "smsc", clock.now_ms() + clock.DAY_MS)
    conn.execute("UPDATE components SET seen_at = seen_at + ?", (clock.DAY_MS,))
    _fill_traffic(conn, keys, cast)
    rollup.roll_up_all(conn)
    return Links(link)


def _fill_customer(
    conn: db.Connection, customer_id: int, account: Account, word: str, number: str, in_a_month: int
) -> None:
    name = account.name
    customer = customers.get_customer_by_id(conn, customer_id)
    customers.change_customer(conn, SHELL, customer, credit_line=2000 * THOUSANDTHS, min_age_days=0, messages_months=12)
    credits.grant_credits(conn, SHELL, account, 5 * THOUSANDTHS, f"{word} bonus", expires_at=in_a_month)
    allowed_ips.add_allowed_ip(conn, SHELL, account, f"198.51.{customer_id}.0/28", label=f"{word} office")
    inbound_numbers.add_inbound_number(conn, SHELL, account, number)
    inbound_numbers.add_inbound_number(conn, SHELL, account, number, word)
    for sender, approve in ((f"{word}1", True), (f"{word}2", False), (f"{word}3", None)):
        senders.add_sender(
            conn, SHELL, account, sender, description=f"{word} parcels", reason=f"{word} asks", document=PDF
        )
        if approve is not None:
            senders.decide_sender(conn, SHELL, account, sender, approve=approve, comment=f"{word} it is")
    senders.add_sender(conn, SHELL, account, f"{word}4")
    senders.remove_senders(conn, SHELL, account, [senders.get_sender(conn, account, f"{word}4").id])
    _fill_messages(conn, account, word, number)
    blacklist.add_blacklist_number(conn, SHELL, account, f"+39 340 555 0{customer_id:03}")
    last = session_records.get_last_smpp_session_id(conn)
    acting.open_session(conn, name, last + 1)
    acting.refuse_binds(conn, name, f"203.0.113.{customer_id}", refused_binds.NOT_AUTHORISED, 3)
    reasons = (("sender", f"{word}9"), ("throughput", "20"), ("price", "CU"), ("country", "FR"), ("coding", "4"))
    record_refused_messages(conn, account.id, dict.fromkeys(reasons, 3))
    auto_recredit.set_recredit_rule(conn, SHELL, account, 200 * THOUSANDTHS, 500 * THOUSANDTHS, 2)
    alerts.set_alert_rule(conn, SHELL, account, 500 * THOUSANDTHS, [f"{word.lower()}@alerts.example"])
    paid, cancelled, _open = (orders.place_order(conn, SHELL, account, packs.list_packs(conn)[0]) for _ in range(3))
    orders.pay_order(conn, SHELL, paid, f"{word} transfer")
    orders.cancel_order(conn, SHELL, cancelled)
    account_requests.ask_operator(conn, SHELL, account, account_requests.WINDOWING, "", f"{word} needs 50")


def _fill_traffic(conn: db.Connection, keys: Keys, cast: Cast) -> None:
    """A carrier with two routes, and simulators: the first one can be removed, and the second one is disabled."""
    for name in ("spare", "off"):
        upstreams.create_upstream(conn, keys, SHELL, name, kind=upstreams.SIMULATOR)
    upstreams.disable_upstream(conn, SHELL, upstreams.get_upstream(conn, "off"))
    carrier = add_upstream(conn, keys)
    upstreams.set_default_upstream(conn, SHELL, carrier)
    binds.record_bind_states(conn, carrier.id, [BindState(1, "trx", binds.BOUND, clock.now_ms())])
    for country in ("FR", "DE"):
        create_route(conn, carrier.name, country=country)
    trial_messages.send_test_message(conn, SHELL, carrier, "", "393401234567", "Hello")
    unclaimed.keep_unowned_messages(conn, [(clock.now_ms(), carrier.id, "393401234567", "48489", "Hello")])
    traces.start_trace(conn, SHELL, carrier, 5)
    _leave_receipts(conn, cast.smpp_globex_1.id, carrier.id)
    queue_messages(conn, cast.smpp_globex_1.id, 2)
    for account in (cast.smpp_acme_1, cast.smpp_globex_1):
        finding = Finding(BUSY_HOUR, "", {"messages": 900, "threshold": 500, "usual": 3})
        unusual_traffic.record_event(conn, keys, account.id, finding, clock.now_ms(), is_to_hold=True)


def _leave_receipts(conn: db.Connection, account_id: int, upstream_id: int) -> None:
    """Some that another setting would find."""
    now = clock.now_ms()
    message_ids = queue_of_each(conn, account_id, ["393401234567"] * 4)
    while sending.claim_messages(conn, Claim(upstream_id, [()], 100), now).messages:
        pass
    numbers = range(0xAB00, 0xAB00 + len(message_ids))
    accepted = zip(message_ids, numbers, strict=True)
    sending.store_accepted_messages(
        conn, [AcceptedMessage(upstream_id, each, f"{number:x}", 1, now) for each, number in accepted]
    )
    # They name no number, so that the form of their ids has to be set.
    receipts = [
        UpstreamReceipt(upstream_id, (str(each),), 2, 0, True, "stat:DELIVRD", None, "", "", "") for each in numbers
    ]
    sending.store_upstream_receipts(conn, receipts, clock.now_ms())


def _fill_messages(conn: db.Connection, account: Account, word: str, number: str) -> None:
    source, start = account.name.split("-")[1].upper(), clock.now_ms() - clock.HOUR_MS
    sent = acting.send_texts(conn, account.name, *(f"{word} parcel {n}" for n in range(_MANY)), source=source, at=start)
    acting.deliver_messages(conn, *sent[:20])
    acting.fail_messages(conn, *sent[20:22])
    acting.fail_messages(conn, sent[22], ptt=6)
    received = [
        MobileOriginatedMessage(f"39333765432{n % 10}", number, "STOP" if n == 0 else f"{word} thanks {n}")
        for n in range(_MANY)
    ]
    inbound.store_inbound_messages(conn, received, start)
    # Their receipts and texts have been taken by a client, but for the latest: what waits can't be deleted.
    conn.execute("DELETE FROM deliveries WHERE account_id = ? AND message_id IS NOT ?", (account.id, sent[22]))
    conn.execute("DELETE FROM deliveries WHERE account_id = ? AND received_id IS NOT NULL", (account.id,))
    scope = deletion.build_selection_scope("sent", sent[:1])
    for _ in deletion.run_deletion(conn, deletion.create_deletion(conn, SHELL, account, scope, total=1)):
        pass


# --- what has changed

Rows = dict[str, list[tuple[object, ...]]]
# What changes because somebody asked, whatever the answer is.
TRACES = {
    "throttle_buckets": "attempts that are counted",
    "login_sessions.seen_at": "when somebody was last there",
    "sqlite_sequence": "SQLite's own",
}
# What a refusal leaves; none of it does anybody any harm.
REFUSAL_TRACES = {
    "audit_log": "failed logins and wrong codes",
    "users.wrong_codes": "wrong codes in a row",
    "mails": "five wrong codes are mailed to their owner",
}
# Who has the secret of the payment page is heard, even where the payment fits nothing.
REFUSED_PAYMENT_TRACES = {
    "audit_log": "payments that match nothing",
    "mails": "to operators: somebody has paid",
    "spent_forms": "of which mails were sent, so that none is sent twice",
}
# Rows of the installation as a whole that a customer's action adds to or changes.
COMMON_TABLES = {
    "mails": "to operators, and to the customer",
    "counters": "of the SMPP server's configuration",
    "spent_forms": "keys of forms that work once",
    "queue_works": "what the SMPP server does to messages that wait",
}
_IMPLIED_PARENTS = {"account_id": "accounts", "customer_id": "customers", "user_id": "users"}


@dataclass(frozen=True)
class Change:
    """A row that is new, gone or different."""

    table: str
    owner: int | None
    """The customer that it belongs to; None: the installation's."""
    columns: frozenset[str]
    """Those that differ; all of them where the row is new or gone."""
    row: tuple[object, ...]

    def __str__(self) -> str:
        return f"{self.table} of {self.owner} ({', '.join(sorted(self.columns)[:4])}) {str(self.row)[:80]}"

    def is_among(self, traces: dict[str, str]) -> bool:
        return self.table in traces or all(f"{self.table}.{each}" in traces for each in self.columns)


class Snapshot:
    """A state of the database that can be put back.

    Args:
        restorer: a connection that does nothing but that.
    """

    def __init__(self, conn: sqlite3.Connection, restorer: sqlite3.Connection) -> None:
        self._copy = sqlite3.connect(":memory:", check_same_thread=False)
        conn.backup(self._copy)
        self._restorer = restorer

    def take_another(self, conn: sqlite3.Connection) -> "Snapshot":
        """As the database is now."""
        return Snapshot(conn, self._restorer)

    def restore(self) -> None:
        self._copy.backup(self._restorer)
        # A backup counts it up: all connections would read the schema again, which takes as long as a request.
        self._restorer.execute("PRAGMA schema_version = 1")

    @cached_property
    def rows(self) -> Rows:
        return read_rows(self._copy)


@dataclass(frozen=True)
class _Table:
    name: str
    columns: tuple[str, ...]
    key: tuple[int, ...]
    parents: tuple[tuple[int, str], ...]


class Ledger:
    """Whose which row is."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.tables = {each.name: each for each in _read_tables(conn)}

    def list_ids(self, rows: Rows, customer_id: int) -> list[str]:
        """The first id in each table of a customer's rows."""
        owners, ids = _Owners(self.tables, rows), set[str]()
        for name, table in self.tables.items():
            own = [row[table.key[0]] for row in rows[name] if owners.find(table, row) == {customer_id}]
            ids.update(str(each) for each in own[:1] if len(table.key) == 1 and isinstance(each, int))
        return sorted(ids)

    def list_changes(self, before: Rows, after: Rows) -> list[Change]:
        owners = _Owners(self.tables, before, after)
        changes = []
        for name, table in self.tables.items():
            if before[name] == after[name]:
                continue
            old, now = Counter(before[name]), Counter(after[name])
            gone, new = ({tuple(row[at] for at in table.key): row for row in rows} for rows in (old - now, now - old))
            for key in gone | new:
                pair = [rows[key] for rows in (gone, new) if key in rows]
                columns = [
                    column
                    for column, left, right in zip(table.columns, pair[0], pair[-1], strict=True)
                    if len(pair) == 1 or left != right
                ]
                whose = {owner for row in pair for owner in owners.find(table, row)}
                changes += [Change(name, owner, frozenset(columns), pair[-1]) for owner in whose]
        return changes


class _Owners:
    def __init__(self, tables: dict[str, _Table], *states: Rows) -> None:
        self._tables = tables
        self._by_key: dict[tuple[str, object], tuple[object, ...]] = {}
        for name, table in tables.items():
            if len(table.key) == 1:
                for state in states:
                    self._by_key |= {(name, row[table.key[0]]): row for row in state[name]}

    def find(self, table: _Table, row: tuple[object, ...]) -> set[int | None]:
        """The customers that a row belongs to; {None} where it is nobody's."""
        if table.name == "customers":
            owner = row[table.columns.index("id")]
            assert isinstance(owner, int)
            return {owner}
        found: set[int | None] = set()
        for at, parent in table.parents:
            parent_row = self._by_key.get((parent, row[at]))
            if parent_row is not None and parent != table.name:
                found |= self.find(self._tables[parent], parent_row) - {None}
        return found or {None}


def _read_tables(conn: sqlite3.Connection) -> Iterator[_Table]:
    names = [row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    for name in names:
        info = [tuple(row) for row in conn.execute(f"PRAGMA table_info({name})")]
        columns = tuple(row[1] for row in info)
        key = tuple(row[0] for row in info if row[5]) or tuple(range(len(columns)))
        parents = {columns.index(row[3]): row[2] for row in conn.execute(f"PRAGMA foreign_key_list({name})")}
        parents |= {columns.index(each): parent for each, parent in _IMPLIED_PARENTS.items() if each in columns}
        yield _Table(name, columns, key, tuple(parents.items()))


def read_rows(conn: sqlite3.Connection) -> Rows:
    cursor = conn.cursor()
    cursor.row_factory = None
    # In one transaction: sixty take longer than all that is read.
    cursor.execute("BEGIN")
    try:
        names = [row[0] for row in cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
        return {name: cursor.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    finally:
        cursor.execute("COMMIT")
