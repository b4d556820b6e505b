"""What operators are told of, once until it is over, and by a real mail server and a real webhook."""

import contextlib
import shutil
import socket
import threading
from collections import namedtuple
from dataclasses import replace

import pytest

from portal.core import db, i18n
from portal.core import webhook as core_webhook
from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS, now_ms
from portal.services.accounts import accounts, session_records
from portal.services.brakes import unusual_traffic
from portal.services.brakes.unusual_traffic import BUSY_HOUR, CANCELLED, Finding
from portal.services.common import ids, mail
from portal.services.common.audit import SHELL, SYSTEM
from portal.services.operations import alert_causes, alert_webhook, alerts
from portal.services.operations.alert_causes import (
    ACCOUNT_HELD,
    DELIVERY_RATE,
    FAILING_MAILS,
    FULL_DISK,
    OLD_QUEUE,
    REFUSED_MAILS,
    SERVER_STOPPED,
    UPSTREAM_UNBOUND,
)
from portal.services.operations.alerts import OVER_MS
from portal.services.people import users
from portal.services.routing import routes
from portal.services.routing.routes import RouteTexts
from portal.services.upstreams import binds, holds, upstreams
from portal.services.upstreams.binds import BindState
from tests.mailbox import Mailbox
from tests.services.mails import get_text
from tests.services.upstreams.waiting import add_upstream, queue_messages
from tests.support import find_free_port
from tests.webhook import WebhookServer

LOOK_MS = 30_000


@pytest.fixture
def webhook():
    with WebhookServer().listening() as server:
        yield server


@pytest.fixture
def mailbox():
    with Mailbox().listening() as mailbox:
        yield mailbox


@pytest.fixture
def settings(config, webhook, mailbox):
    """Settings that tell both; a disk is full for nobody but who tests that."""
    told = replace(config.alerts, webhook_url=webhook.url, disk_percent=0, disk_mb=0)
    return replace(config, alerts=told, mail=replace(config.mail, url=mailbox.url), timezone="Europe/Rome")


@pytest.fixture
def carrier(conn, keys):
    session_records.record_component_heartbeat(conn, "smsc", 0)
    return add_upstream(conn, keys)


class Clock:
    """Looks every half a minute of a time that goes on only then, and sends what is to be told."""

    def __init__(self, conn, settings, keys, webhook, mailbox):
        self.conn, self.settings, self.keys, self.webhook, self.mailbox = conn, settings, keys, webhook, mailbox
        self.now = now_ms()

    def look(self, pass_ms=0):
        """Returns what was told, as kind and state; the webhook and the only operator were told the same."""
        end = self.now + pass_ms
        while self.now < end:
            self.now = min(self.now + LOOK_MS, end)
            alerts.watch(self.conn, self.settings, self.keys, self.now)
        if not pass_ms:
            alerts.watch(self.conn, self.settings, self.keys, self.now)
        return self.send()

    def send(self):
        list(mail.send_due_mails(self.conn, self.settings, self.keys))
        list(alert_webhook.send_due_posts(self.conn, self.settings))
        return [(each["kind"], each["state"]) for each in self.webhook.list_posts()]


@pytest.fixture
def clock(conn, settings, keys, webhook, mailbox, monkeypatch):
    made = Clock(conn, settings, keys, webhook, mailbox)
    # The SMPP server lives on.
    monkeypatch.setattr(session_records, "now_ms", lambda: 0)
    return made


def drip(server):
    """Answer octet by octet, until the other side has had enough."""
    talking, _ = server.accept()
    with talking:
        talking.settimeout(0.02)
        with contextlib.suppress(ConnectionError):
            while True:
                with contextlib.suppress(TimeoutError):
                    if not talking.recv(65536):
                        return
                talking.sendall(b"H")


def set_bind(conn, upstream, state, error=""):
    binds.record_bind_states(conn, upstream.id, [BindState(1, "trx", state, 1, error)])


# --- upstreams


def test_an_upstream_that_is_unbound_for_minutes_is_told_once_and_so_is_its_end(conn, clock, carrier, cast, mailbox):
    refusal = "the carrier refuses the bind with ESME_RINVPASWD 0x0E"
    set_bind(conn, carrier, "refused", refusal)
    began_at = clock.now
    assert clock.look() == []
    assert clock.look(5 * MINUTE_MS - 1) == []
    assert clock.look(1) == [(UPSTREAM_UNBOUND, "firing")]
    told = mailbox.wait_for_mail()
    assert (told["To"], told["Subject"]) == (cast.olga.email, "“carrier” is not connected")
    text = get_text(told)
    assert "The reason: it refuses the bind with ESME_RINVPASWD 0x0E." in text
    assert f"/admin/upstreams/{carrier.id}" in text
    assert clock.look(DAY_MS // 24) == []
    (alert,) = alerts.list_alerts(conn)
    assert (alert.since, alert.over_at) == (began_at, None)
    set_bind(conn, carrier, "bound")
    last_seen_at = clock.now
    assert clock.look(OVER_MS - LOOK_MS) == []
    assert clock.look(LOOK_MS) == [(UPSTREAM_UNBOUND, "over")]
    over = mailbox.wait_for_mail()
    assert over["Subject"] == "Over now, it was: “carrier” is not connected"
    assert " ".join(get_text(over).split()).startswith("Over now, it was: “carrier” is not connected. It was so from ")
    assert alerts.list_alerts(conn) == []
    assert [each.over_at for each in alerts.list_all_alerts(conn, 10)] == [last_seen_at]


def test_an_upstream_that_comes_and_goes_is_told_once(conn, clock, carrier):
    set_bind(conn, carrier, "unbound")
    assert clock.look(6 * MINUTE_MS) == [(UPSTREAM_UNBOUND, "firing")]
    for _ in range(5):
        set_bind(conn, carrier, "bound")
        assert clock.look(MINUTE_MS) == []
        set_bind(conn, carrier, "unbound")
        assert clock.look(MINUTE_MS) == []


def test_what_is_over_before_it_is_told_is_told_to_nobody(conn, clock, carrier):
    set_bind(conn, carrier, "unbound")
    assert clock.look(4 * MINUTE_MS) == []
    set_bind(conn, carrier, "bound")
    assert clock.look(LOOK_MS) == []
    set_bind(conn, carrier, "unbound")
    assert clock.look(4 * MINUTE_MS) == []
    set_bind(conn, carrier, "bound")
    assert clock.look(OVER_MS) == []
    assert alerts.list_all_alerts(conn, 10) == []


def test_the_minutes_begin_anew_where_nobody_has_looked_meanwhile(conn, clock, carrier):
    set_bind(conn, carrier, "unbound")
    clock.look(MINUTE_MS)
    clock.now += 60 * MINUTE_MS
    assert clock.look() == []
    assert clock.look(5 * MINUTE_MS) == [(UPSTREAM_UNBOUND, "firing")]


def test_one_bind_of_each_kind_is_enough_and_a_disabled_upstream_lacks_none(conn, clock, keys, carrier):
    two = add_upstream(conn, keys, "two", bind="tx+rx")
    bound, unbound = (BindState(1, "tx", "bound", 1), BindState(2, "rx", "bound", 1)), BindState(2, "rx", "unbound", 1)
    binds.record_bind_states(conn, two.id, bound)
    three = [BindState(1, "trx", "bound", 1), *(BindState(each, "trx", "unbound", 1) for each in (2, 3))]
    binds.record_bind_states(conn, carrier.id, three)
    assert clock.look(6 * MINUTE_MS) == []
    binds.record_bind_states(conn, two.id, [bound[0], unbound])
    assert clock.look(6 * MINUTE_MS) == [(UPSTREAM_UNBOUND, "firing")]
    upstreams.disable_upstream(conn, SHELL, two)
    assert clock.look(6 * MINUTE_MS) == [(UPSTREAM_UNBOUND, "over")]


def test_an_upstream_that_gets_another_name_is_told_once(conn, clock, keys, carrier):
    set_bind(conn, carrier, "unbound")
    assert clock.look(6 * MINUTE_MS) == [(UPSTREAM_UNBOUND, "firing")]
    conn.execute("UPDATE upstreams SET name = 'renamed'")
    assert clock.look(6 * MINUTE_MS) == []
    assert [each.subject for each in alerts.list_alerts(conn)] == ["renamed"]


def test_that_the_smpp_server_does_not_run_is_told_instead_of_each_upstream(conn, clock, carrier):
    set_bind(conn, carrier, "unbound")
    assert clock.look(6 * MINUTE_MS) == [(UPSTREAM_UNBOUND, "firing")]
    conn.execute("DELETE FROM components")
    assert clock.look(6 * MINUTE_MS) == [(SERVER_STOPPED, "firing")]
    session_records.record_component_heartbeat(conn, "smsc", 0)
    assert clock.look(6 * MINUTE_MS) == [(SERVER_STOPPED, "over")]
    set_bind(conn, carrier, "bound")
    assert clock.look(6 * MINUTE_MS) == [(UPSTREAM_UNBOUND, "over")]


def test_while_the_smpp_server_does_not_run_nothing_is_known_of_upstreams(conn, clock, keys, carrier):
    add_upstream(conn, keys, "other")
    set_bind(conn, carrier, "bound")
    # The other one has been unbound for three minutes.
    assert clock.look(3 * MINUTE_MS) == []
    conn.execute("DELETE FROM components")
    assert clock.look(6 * MINUTE_MS) == [(SERVER_STOPPED, "firing")]


# --- delivery rates


@pytest.fixture
def count(conn, carrier):
    """Has messages of an upstream arrive, and fail, so many hours ago."""

    def count(hours, delivered, undelivered):
        hour = now_ms() // HOUR_MS - hours
        for name, value in (("delivered", delivered), ("undelivered", undelivered)):
            conn.execute("INSERT OR REPLACE INTO upstream_hours VALUES (?, ?, ?, ?)", (carrier.id, hour, name, value))

    set_bind(conn, carrier, "bound")
    return count


def test_a_rate_that_falls_is_told_until_it_has_clearly_risen(conn, clock, count):
    count(24, 950, 50)
    count(0, 38, 12)
    assert clock.look() == []
    count(0, 37, 13)
    assert clock.look() == [(DELIVERY_RATE, "firing")]
    (alert,) = alerts.list_alerts(conn)
    assert alert.detail == "In the last hour 74 % of them arrived, in the seven days before 95 %."
    # A bit better; and at night, when there is little.
    count(0, 42, 8)
    assert clock.look(6 * MINUTE_MS) == []
    count(0, 1, 3)
    assert clock.look(6 * MINUTE_MS) == []
    count(0, 46, 4)
    assert clock.look(6 * MINUTE_MS) == [(DELIVERY_RATE, "over")]


def test_a_few_messages_say_nothing_of_a_rate(clock, count):
    count(24, 950, 50)
    count(0, 0, 49)
    assert clock.look() == []


def test_a_new_upstream_has_no_rate_to_compare(clock, count):
    count(24, 49, 0)
    count(0, 0, 500)
    assert clock.look() == []


# --- the queue


@pytest.fixture
def age(conn):
    """Lets what waits have waited for so many minutes."""

    def age(minutes, of=None):
        moved = {row[0] for row in conn.execute("SELECT message_id FROM queued_messages")}
        conn.execute("PRAGMA foreign_keys = OFF")
        for message_id in moved if of is None else of:
            new_id = message_id - ids.min_id_at_time(now_ms()) + ids.min_id_at_time(now_ms() - minutes * MINUTE_MS)
            conn.execute("UPDATE messages SET id = ? WHERE id = ?", (new_id, message_id))
            conn.execute("UPDATE queued_messages SET message_id = ? WHERE message_id = ?", (new_id, message_id))

    return age


def test_a_queue_that_is_old_is_told_until_it_is_half_as_old(conn, clock, carrier, cast, age):
    set_bind(conn, carrier, "bound")
    queue_messages(conn, cast.smpp_acme_1.id, 3)
    age(14)
    assert clock.look() == []
    age(2)
    assert clock.look() == [(OLD_QUEUE, "firing")]
    (alert,) = alerts.list_alerts(conn)
    assert (alert.subject, alert.detail) == ("carrier", "3 messages wait.")
    # By its id, since the upstream may get another name.
    assert alert.path == f"/admin/upstreams/{carrier.id}"
    assert abs(clock.now - 16 * MINUTE_MS - alert.since) < MINUTE_MS
    age(-6)
    assert clock.look(2 * OVER_MS) == []
    conn.execute("DELETE FROM queued_messages")
    assert clock.look(2 * OVER_MS) == [(OLD_QUEUE, "over")]


def test_what_no_upstream_takes_is_told_too(conn, clock, cast, age):
    session_records.record_component_heartbeat(conn, "smsc", 0)
    queue_messages(conn, cast.smpp_acme_1.id)
    age(16)
    assert clock.look() == [(OLD_QUEUE, "firing")]
    (alert,) = alerts.list_alerts(conn)
    assert (alert.title, alert.path) == ("Messages wait, and there is no upstream for them", "/admin/queue")


def test_what_somebody_holds_back_is_not_late(conn, clock, carrier, cast, age):
    set_bind(conn, carrier, "bound")
    queue_messages(conn, cast.smpp_acme_1.id)
    age(60)
    holds.hold_account(conn, SHELL, cast.smpp_acme_1.id, "asked")
    assert clock.look() == []
    conn.execute("UPDATE queue_paths SET upstream_ids = '0' WHERE id = 0")
    holds.release_account(conn, SHELL, cast.smpp_acme_1.id)
    assert clock.look() == []
    conn.execute("UPDATE queue_paths SET upstream_ids = '' WHERE id = 0")
    assert clock.look() == [(OLD_QUEUE, "firing")]


def test_quiet_hours_make_nothing_late(conn, clock, carrier, cast, age):
    set_bind(conn, carrier, "bound")
    # On that day clocks go forward, so that it has 23 hours.
    now = 4_109_911_200_000
    assert i18n.format_iso8601(now) == "2100-03-28T10:00:00Z"
    route = routes.add_route(conn, SHELL, RouteTexts(upstreams="carrier", quiet_hours="22:00-08:00 Europe/Rome"))
    queue_messages(conn, cast.smpp_acme_1.id)
    conn.execute("UPDATE queue_paths SET upstream_ids = ? WHERE id = 0", (f"{carrier.id},q{route.id}",))
    age(24 * 60)

    def find(at):
        return alert_causes.find_causes(conn, clock.settings, (), at)[OLD_QUEUE]

    assert find(now - 5 * HOUR_MS) == []
    assert find(now - 4 * HOUR_MS + 14 * MINUTE_MS) == []
    (cause,) = find(now - 4 * HOUR_MS + 15 * MINUTE_MS)
    assert cause.since == now - 4 * HOUR_MS


# --- brakes


def test_what_a_brake_holds_is_told_and_what_operators_hold_is_not(conn, clock, keys, carrier, cast, mailbox):
    set_bind(conn, carrier, "bound")
    holds.hold_account(conn, SHELL, cast.smpp_globex_1.id, "asked")
    assert clock.look() == []
    found = Finding(BUSY_HOUR, "", {"messages": 900, "threshold": 500, "usual": 3})
    unusual_traffic.record_event(conn, keys, cast.smpp_acme_1.id, found, clock.now, is_to_hold=True)
    assert clock.look(2 * OVER_MS) == [(ACCOUNT_HELD, "firing")]
    (alert,) = alerts.list_alerts(conn)
    assert (alert.title, alert.path) == ("smpp-acme-1 is on hold: unusual traffic", "/admin/accounts/smpp-acme-1")
    # Cancelling what waits leaves it on hold: from then on it is the operator's.
    account = accounts.get_account(conn, "smpp-acme-1")
    unusual_traffic.answer_events(conn, SHELL, account, CANCELLED, by_operator=True)
    assert clock.look(2 * OVER_MS) == []
    holds.release_account(conn, SHELL, account.id)
    assert clock.look(OVER_MS) == [(ACCOUNT_HELD, "over")]
    told = [mailbox.wait_for_mail() for _ in "123"]
    # The mail with what is unusual tells operators that it is on hold, and no other one does.
    assert [each["Subject"] for each in told if each["To"] == cast.olga.email] == [
        "smpp-acme-1 is on hold: unusual traffic",
        "Over now, it was: smpp-acme-1 is on hold: unusual traffic",
    ]


def test_a_great_many_are_told_one_after_another(conn, clock, carrier, cast, monkeypatch):
    """The mails to operators are queued in the transactions that tell, which others wait for."""
    monkeypatch.setattr(alerts, "_MOST_TOLD", 1)
    set_bind(conn, carrier, "bound")
    for account in (cast.smpp_acme_1, cast.smpp_acme_2, cast.smpp_globex_1):
        holds.hold_account(conn, SYSTEM, account.id, "brake: busy_hour")
    assert [len(clock.look(LOOK_MS)) for _ in range(4)] == [1, 1, 1, 0]
    conn.execute("DELETE FROM account_holds")
    assert clock.look(OVER_MS) == [(ACCOUNT_HELD, "over")]
    assert [len(clock.look(LOOK_MS)) for _ in range(3)] == [1, 1, 0]


# --- mails


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("ConnectionRefusedError: [Errno 111] Connection refused", FAILING_MAILS),
        ("UnsecuredMailServer: the server offers no STARTTLS", FAILING_MAILS),
        ("SMTPRecipientsRefused: {'marta@acme.example': (550, b'No such user')}", REFUSED_MAILS),
    ],
)
def test_mails_that_fail_for_minutes_are_told(conn, clock, keys, carrier, error, kind):
    set_bind(conn, carrier, "bound")
    mail.queue_mail(conn, keys, "marta@acme.example", "check", "en", problems=[], more=0)
    later = now_ms() + HOUR_MS // 3
    conn.execute("UPDATE mails SET error = ?, attempts = 1, next_attempt_at = ?", (error, later))
    assert clock.look(9 * MINUTE_MS) == []
    assert clock.look(MINUTE_MS + LOOK_MS) == [(kind, "firing")]
    conn.execute("UPDATE mails SET next_attempt_at = NULL, error = '' WHERE next_attempt_at = ?", (later,))
    assert clock.look(OVER_MS) == [(kind, "over")]


def test_a_dead_mailbox_is_told_to_others_and_not_to_itself(conn, clock, keys, carrier, cast):
    """Else that mail would be refused, and tell of itself again, for ever."""
    set_bind(conn, carrier, "bound")
    users.create_user(conn, keys, SHELL, "otto@portal.example", users.OPERATOR, None)
    mail.queue_mail(conn, keys, cast.olga.email, "check", "en", problems=[], more=0)
    (last_id,) = conn.execute("SELECT max(id) FROM mails").fetchone()
    refusal = "SMTPRecipientsRefused: {'olga@portal.example': (550, b'No such user')}"
    conn.execute(
        "UPDATE mails SET error = ?, next_attempt_at = ? WHERE id = ?", (refusal, now_ms() + HOUR_MS // 3, last_id)
    )
    for end, told in ((11 * MINUTE_MS, "firing"), (OVER_MS + LOOK_MS, "over")):
        assert clock.look(end) == [(REFUSED_MAILS, told)]
        # It is given up then.
        conn.execute("UPDATE mails SET next_attempt_at = NULL, content = NULL WHERE id = ?", (last_id,))
    recipients = conn.execute("SELECT recipient FROM mails WHERE id > ?", (last_id,)).fetchall()
    assert [each[0] for each in recipients] == ["otto@portal.example"] * 2


def test_a_mail_server_that_is_away_is_told_to_the_webhook_at_once_and_by_mail_later(
    conn, clock, keys, carrier, mailbox, config
):
    set_bind(conn, carrier, "bound")
    away = replace(clock.settings, mail=replace(config.mail, url=f"smtp://127.0.0.1:{find_free_port()}"))
    there, clock.settings = clock.settings, away
    mail.queue_mail(conn, keys, "marta@acme.example", "check", "en", problems=[], more=0)
    list(mail.send_due_mails(conn, away, keys))
    assert clock.look(11 * MINUTE_MS) == [(FAILING_MAILS, "firing")]
    clock.settings = there
    conn.execute("UPDATE mails SET next_attempt_at = 0")
    clock.send()
    assert clock.look(2 * OVER_MS) == [(FAILING_MAILS, "over")]
    mailbox.wait_for_mail()
    subjects = [mailbox.wait_for_mail()["Subject"] for _ in range(2)]
    assert subjects == ["Mails can’t be sent", "Over now, it was: Mails can’t be sent"]


# --- the disk


@pytest.mark.parametrize(
    ("percent", "megabytes", "limit"), [(5, 0, 50 << 20), (0, 40, 40 << 20), (5, 60, 60 << 20)], ids=str
)
def test_a_disk_that_is_nearly_full_is_told(conn, clock, carrier, monkeypatch, percent, megabytes, limit):
    set_bind(conn, carrier, "bound")
    usage = namedtuple("usage", "total used free")
    clock.settings = replace(
        clock.settings, alerts=replace(clock.settings.alerts, disk_percent=percent, disk_mb=megabytes)
    )

    def set_free(octets):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1000 << 20, 0, octets))

    set_free(limit)
    assert clock.look() == []
    set_free(limit - 1)
    assert clock.look() == [(FULL_DISK, "firing")]
    set_free(int(limit * 1.05))
    assert clock.look(2 * OVER_MS) == []
    set_free(int(limit * 1.1) + 1)
    assert clock.look(OVER_MS) == [(FULL_DISK, "over")]


def test_the_disk_of_the_data_folder_is_looked_at(conn, clock, carrier):
    set_bind(conn, carrier, "bound")
    free_mb = shutil.disk_usage(clock.settings.data).free >> 20
    clock.settings = replace(clock.settings, alerts=replace(clock.settings.alerts, disk_mb=2 * free_mb))
    assert clock.look() == [(FULL_DISK, "firing")]


# --- telling


def test_what_is_switched_off_is_told_no_more(conn, clock, carrier, mailbox):
    set_bind(conn, carrier, "unbound")
    assert clock.look(6 * MINUTE_MS) == [(UPSTREAM_UNBOUND, "firing")]
    off = replace(clock.settings.alerts, unbound_minutes=0, delivery_points=0, queue_minutes=0, mail_minutes=0)
    clock.settings = replace(clock.settings, alerts=off)
    assert clock.look(6 * MINUTE_MS) == []
    assert alerts.list_alerts(conn) == []
    assert [*alert_causes.find_causes(conn, clock.settings, (), clock.now)] == [ACCOUNT_HELD]


def test_two_processes_tell_each_once(conn, clock, keys, carrier, config):
    """Both look at the same moments, each with a connection of its own."""
    set_bind(conn, carrier, "unbound")
    clock.look(4 * MINUTE_MS)
    start = clock.now
    barrier = threading.Barrier(2)

    def look():
        own = db.connect(config.database_file)
        for each in range(10):
            barrier.wait()
            alerts.watch(own, clock.settings, keys, start + each * LOOK_MS)
        own.close()

    for state, told in (("unbound", "firing"), ("bound", "over")):
        set_bind(conn, carrier, state)
        threads = [threading.Thread(target=look) for _ in "12"]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        start += 10 * LOOK_MS
        assert clock.send() == [(UPSTREAM_UNBOUND, told)]
    subjects = [row[0] for row in conn.execute("SELECT recipient FROM mails")]
    assert len(subjects) == 2


def test_each_operator_reads_it_in_their_language(conn, clock, keys, carrier, cast, webhook, mailbox):
    users.set_user_language(conn, users.get_user_by_email(conn, cast.olga.email), "it")
    set_bind(conn, carrier, "unbound", "the carrier has unbound")
    alerts.watch(conn, clock.settings, keys, clock.now)
    alerts.watch(conn, clock.settings, keys, clock.now + MINUTE_MS)
    conn.execute("UPDATE alerts SET since = since - ?", (5 * MINUTE_MS,))
    alerts.watch(conn, clock.settings, keys, clock.now + MINUTE_MS)
    list(mail.send_due_mails(conn, clock.settings, keys))
    told = mailbox.wait_for_mail()
    assert told["Subject"] == "“carrier” non è connesso"
    assert "ha chiuso il bind" in get_text(told)
    # All operators have the same language, so the webhook has it, too.
    list(alert_webhook.send_due_posts(conn, clock.settings))
    assert "non è connesso" in webhook.wait_for_post()["text"]
    users.create_user(conn, keys, SHELL, "otto@portal.example", users.OPERATOR, None)
    set_bind(conn, carrier, "bound")
    alerts.watch(conn, clock.settings, keys, clock.now + HOUR_MS)
    list(mail.send_due_mails(conn, clock.settings, keys))
    subjects = {(each := mailbox.wait_for_mail())["To"]: each["Subject"] for _ in "12"}
    assert subjects == {
        cast.olga.email: "È finito, era: “carrier” non è connesso",
        "otto@portal.example": "Over now, it was: “carrier” is not connected",
    }
    list(alert_webhook.send_due_posts(conn, clock.settings))
    assert "Over now, it was: “carrier” is not connected" in webhook.wait_for_post()["text"]


# --- the webhook


def test_the_webhook_gets_json_with_a_text_for_chat_tools(conn, clock, keys, carrier, webhook):
    set_bind(conn, carrier, "unbound")
    for minutes in range(6):
        alerts.watch(conn, clock.settings, keys, 1_900_000_000_000 + minutes * MINUTE_MS)
    list(alert_webhook.send_due_posts(conn, clock.settings))
    address = f"{clock.settings.public_url}/admin/upstreams/{carrier.id}"
    text = f"SMPP Portal: “carrier” is not connected. Since 17 Mar 2030, 18:46:40 CET. {address}"
    assert webhook.wait_for_post() == {
        "text": text,
        "content": text,
        "id": 1,
        "kind": "upstream_unbound",
        "subject": "carrier",
        "state": "firing",
        "since": "2030-03-17T17:46:40Z",
        "over_at": None,
        "url": address,
        "portal": clock.settings.public_url,
    }


def test_what_the_webhook_does_not_take_is_sent_again_in_its_order(conn, clock, keys, carrier, webhook, caplog):
    caplog.set_level("INFO")
    webhook.status = 500
    set_bind(conn, carrier, "unbound")
    clock.look(6 * MINUTE_MS)
    assert alert_webhook.count_failing_posts(conn) == (1, "500 Internal Server Error")
    # Not before its time, and nothing overtakes it.
    set_bind(conn, carrier, "bound")
    assert clock.look(OVER_MS) == []
    assert alert_webhook.count_failing_posts(conn) == (2, "500 Internal Server Error")
    webhook.status = 204
    conn.execute("UPDATE alert_posts SET next_attempt_at = 1 WHERE next_attempt_at > 1")
    assert clock.look() == [(UPSTREAM_UNBOUND, "firing"), (UPSTREAM_UNBOUND, "over")]
    assert alert_webhook.count_failing_posts(conn) == (0, "")
    assert clock.look() == []
    assert [each for each in caplog.messages if "webhook" in each] == [
        "alerts can't be sent to the webhook, and will be tried again: 500 Internal Server Error",
        "alerts are sent to the webhook again",
    ]


def test_a_redirect_is_not_followed(conn, clock, carrier, webhook):
    with WebhookServer().listening() as elsewhere:
        webhook.status, webhook.headers = 307, {"Location": elsewhere.url}
        set_bind(conn, carrier, "unbound")
        clock.look(6 * MINUTE_MS)
        assert alert_webhook.count_failing_posts(conn) == (1, "307 Temporary Redirect")
        assert elsewhere.list_posts() == []


def test_the_waits_grow(conn, clock, carrier, webhook):
    webhook.status = 503
    set_bind(conn, carrier, "unbound")
    clock.look(6 * MINUTE_MS)
    waits = []
    for _ in range(6):
        (at,) = conn.execute("SELECT next_attempt_at FROM alert_posts").fetchone()
        waits.append(round((at - now_ms()) / 1000))
        conn.execute("UPDATE alert_posts SET next_attempt_at = 1")
        clock.send()
    assert waits == [5, 15, 60, 300, 300, 300]


def test_what_is_a_day_old_is_given_up_also_where_it_has_waited_behind_others(conn, clock, keys, carrier, webhook):
    webhook.status = 503
    other = add_upstream(conn, keys, "other")
    for each in (carrier, other):
        set_bind(conn, each, "unbound")
    clock.look(6 * MINUTE_MS)
    assert alert_webhook.count_failing_posts(conn) == (2, "503 Service Unavailable")
    conn.execute("UPDATE alert_posts SET created_at = created_at - ?", (DAY_MS,))
    assert alert_webhook.count_failing_posts(conn) == (0, "")
    webhook.status = 204
    set_bind(conn, other, "bound")
    # What has happened since doesn't wait for them.
    assert clock.look(OVER_MS) == [(UPSTREAM_UNBOUND, "over")]
    alert_webhook.purge_posts(conn, now_ms())
    assert conn.execute("SELECT count(*), min(sent_at) IS NULL FROM alert_posts").fetchone()[:] == (1, 0)


def test_what_one_process_sends_no_other_does(conn, clock, carrier, webhook, config):
    set_bind(conn, carrier, "unbound")
    assert clock.look(6 * MINUTE_MS) == [(UPSTREAM_UNBOUND, "firing")]
    conn.execute("UPDATE alert_posts SET next_attempt_at = 1, sent_at = NULL")
    webhook.may_answer.clear()

    def send():
        own = db.connect(config.database_file)
        list(alert_webhook.send_due_posts(own, clock.settings))
        own.close()

    thread = threading.Thread(target=send)
    thread.start()
    assert webhook.wait_for_post()["state"] == "firing"
    assert clock.send() == []
    webhook.may_answer.set()
    thread.join()
    assert clock.send() == []
    assert alert_webhook.count_failing_posts(conn) == (0, "")


def test_a_webhook_that_does_not_answer_is_tried_again(conn, clock, carrier, webhook, monkeypatch):
    monkeypatch.setattr(core_webhook, "_TIMEOUT_S", 0.1)
    webhook.may_answer.clear()
    set_bind(conn, carrier, "unbound")
    clock.look(6 * MINUTE_MS)
    assert alert_webhook.count_failing_posts(conn) == (1, "timed out")


def test_an_answer_that_never_ends_is_given_up(conn, clock, carrier, monkeypatch):
    monkeypatch.setattr(core_webhook, "_TOTAL_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=[server])
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        clock.settings = replace(clock.settings, alerts=replace(clock.settings.alerts, webhook_url=url))
        set_bind(conn, carrier, "unbound")
        clock.look(6 * MINUTE_MS)
        thread.join()
    assert alert_webhook.count_failing_posts(conn) == (1, "its answer takes too long")


def test_what_answers_no_http_is_told_without_its_words(conn, clock, carrier):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            talking, _ = server.accept()
            with talking:
                talking.recv(65536)
                talking.sendall(b"<script>\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        clock.settings = replace(clock.settings, alerts=replace(clock.settings.alerts, webhook_url=url))
        set_bind(conn, carrier, "unbound")
        clock.look(6 * MINUTE_MS)
        thread.join()
    assert alert_webhook.count_failing_posts(conn) == (1, "its answer is no HTTP (BadStatusLine)")


def test_a_process_that_died_while_it_sent_one_keeps_it_from_nobody(conn, clock, carrier, webhook):
    set_bind(conn, carrier, "unbound")
    alerts.watch(conn, clock.settings, clock.keys, clock.now)
    conn.execute("UPDATE alerts SET since = 1")
    alerts.watch(conn, clock.settings, clock.keys, clock.now)
    # Claimed, and not sent.
    conn.execute("UPDATE alert_posts SET attempts = 1, next_attempt_at = ?", (now_ms() + 120_000,))
    assert clock.send() == []
    conn.execute("UPDATE alert_posts SET next_attempt_at = ?", (now_ms(),))
    assert clock.send() == [(UPSTREAM_UNBOUND, "firing")]


def test_without_a_webhook_mails_are_sent_alone(conn, clock, carrier, mailbox):
    clock.settings = replace(clock.settings, alerts=replace(clock.settings.alerts, webhook_url=""))
    set_bind(conn, carrier, "unbound")
    clock.look(6 * MINUTE_MS)
    assert mailbox.wait_for_mail()["Subject"] == "“carrier” is not connected"
    assert conn.execute("SELECT count(*) FROM alert_posts").fetchone()[0] == 0


def test_what_was_over_long_ago_is_forgotten(conn, clock, carrier):
    set_bind(conn, carrier, "unbound")
    clock.look(6 * MINUTE_MS)
    set_bind(conn, carrier, "bound")
    clock.look(OVER_MS)
    alerts.purge_alerts(conn, clock.now - OVER_MS + 90 * DAY_MS)
    assert len(alerts.list_all_alerts(conn, 10)) == 1
    alerts.purge_alerts(conn, clock.now - OVER_MS + 90 * DAY_MS + 1)
    assert alerts.list_all_alerts(conn, 10) == []
    assert conn.execute("SELECT count(*) FROM alert_posts").fetchone()[0] == 0
