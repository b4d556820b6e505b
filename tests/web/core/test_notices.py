"""Every page says where messages reach no phone, and operators read where mails don't or clamd is away, and why."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

from portal import jobs
from portal.core import db
from portal.core.config import Config, DocumentSettings
from portal.core.crypto import Keys
from portal.services.accounts import session_records
from portal.services.common import mail
from portal.services.common.audit import SHELL, SYSTEM
from portal.services.people import authentication, users
from portal.services.senders import documents
from portal.services.upstreams import binds, holds, queue, upstreams
from portal.services.upstreams.binds import BindState
from tests.clamd import Clamd
from tests.mailbox import Mailbox
from tests.support import Cast, Person, find_free_port
from tests.web.acting import extract_text
from tests.web.conftest import Browser
from tests.webhook import WebhookServer

Client = Callable[[Person], Browser]
SIMULATOR = "Messages go to the simulator: nothing reaches a phone."
HOME = "/accounts/smpp-acme-1"
CUSTOMER_PAGES = ("/", HOME, f"{HOME}/history", f"{HOME}/credits/transfer", "/profile")
OPERATOR_PAGES = ("/admin/", "/admin/senders", HOME, f"{HOME}/history", "/profile")


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture
def add(conn: db.Connection, keys: Keys) -> Callable[[], None]:
    def add_upstream() -> None:
        upstreams.create_upstream(conn, keys, SHELL, "carrier", host="h", system_id="s", password="p")

    return add_upstream


def wait(conn: db.Connection, count: int) -> None:
    conn.executemany("INSERT INTO queued_messages VALUES (0, 1, 3, ?)", [(each,) for each in range(count)])


def record_bind(conn: db.Connection, state: str, error: str = "") -> None:
    session_records.record_component_heartbeat(conn, "smsc", 0)
    binds.record_bind_states(conn, 1, [BindState(1, "trx", state, 1, error)])


def read(browser: Browser, address: str) -> str:
    answer = browser.get(address, follow_redirects=True)
    assert answer.status_code == 200, address
    return extract_text(answer.text)


def test_the_simulator_is_told_to_all_and_what_to_do_to_operators(
    alice: Browser, olga: Browser, add: Callable[[], None]
) -> None:
    for address in CUSTOMER_PAGES:
        page = read(alice, address)
        assert SIMULATOR in page, address
        assert "app.py" not in page, address
    for address in OPERATOR_PAGES:
        assert f"{SIMULATOR} To send them to a carrier: Go to the upstreams" in read(olga, address), address
    add()
    # Pages that are kept for some seconds, too.
    for browser, addresses in ((alice, CUSTOMER_PAGES), (olga, OPERATOR_PAGES)):
        for address in addresses:
            assert 'class="notice' not in browser.get(address, follow_redirects=True).text, address


def test_who_is_not_logged_in_is_told_nothing(browser: Browser) -> None:
    assert "simulator" not in browser.get("/login").text


def test_it_is_told_in_the_reader_s_language(alice: Browser) -> None:
    alice.post("/language", data={"locale": "it", "next": "/"})
    assert "I messaggi vanno al simulatore: nulla raggiunge un telefono." in read(alice, HOME)


def test_what_waits_and_why_is_told_to_operators(
    alice: Browser, olga: Browser, conn: db.Connection, add: Callable[[], None]
) -> None:
    add()
    record_bind(conn, "unbound")
    assert 'class="notice' not in olga.get("/admin/").text, "nothing waits"
    wait(conn, 1234)
    record_bind(conn, "refused", "the carrier refuses the bind with ESME_RINVPASWD 0x0E")
    told = (
        "1,234 messages wait. The carrier refuses the binds of “carrier”: it refuses the bind with ESME_RINVPASWD 0x0E."
        " Go to carrier"
    )
    for address in OPERATOR_PAGES:
        assert told in read(olga, address), address
    assert '<a href="/admin/upstreams/1">Go to carrier</a>' in olga.get("/admin/").text
    assert 'class="notice' not in alice.get(HOME).text
    record_bind(conn, "bound")
    assert 'class="notice' not in olga.get(HOME).text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("the carrier refuses the bind with ESME_RBINDFAIL 0x0D", "rifiuta il bind con ESME_RBINDFAIL 0x0D"),
        ("no connection to h.example port 2775 in 10 s", "nessuna connessione a h.example porta 2775 in 10 s"),
        ("no connection to h port 1: Connection refused", "nessuna connessione a h porta 1: Connection refused"),
        ("the carrier has closed the connection", "ha chiuso la connessione"),
        ("the carrier has unbound", "ha chiuso il bind"),
        ("the carrier has not answered the bind", "non ha risposto al bind"),
        ("the carrier has not answered enquire_link", "non ha risposto a enquire_link"),
        ("the carrier has answered no submit_sm for 60 s", "non ha risposto ad alcun submit_sm per 60 s"),
        (
            "no connection to h port 1: no authority that is believed has signed its certificate (self)",
            "nessuna connessione a h porta 1: nessuna autorità riconosciuta ha firmato il suo certificato (self)",
        ),
        (
            "the connection was lost: it demands a client certificate",
            "la connessione è andata persa: chiede un certificato del client",
        ),
        ("the connection was lost: timed out", "la connessione è andata persa: timed out"),
        ("something else 100 %(x)s", "something else 100 %(x)s"),
    ],
)
def test_the_reason_is_told_in_the_reader_s_language(
    olga: Browser, conn: db.Connection, add: Callable[[], None], error: str, told: str
) -> None:
    olga.post("/language", data={"locale": "it", "next": "/"})
    add()
    wait(conn, 1)
    record_bind(conn, "unbound", error)
    page = read(olga, HOME)
    assert f"“carrier” non è connesso: {told}. Vai a carrier" in page


def test_what_to_do_where_the_password_was_sealed_under_another_key(
    olga: Browser, conn: db.Connection, add: Callable[[], None]
) -> None:
    add()
    wait(conn, 1)
    record_bind(conn, "unbound", str(upstreams.UpstreamPasswordUnreadable(name="carrier")))
    told = "“carrier” is not connected: its password was sealed under another secret.key. Enter a new password"
    assert told in read(olga, HOME)
    assert 'href="/admin/upstreams/1/change#password"' in olga.get(HOME).text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE upstreams SET enabled = 0", "“carrier” is disabled. Go to carrier"),
        (
            "UPDATE upstreams SET draining = 1",
            "being drained: it takes no new ones. Go to carrier",
        ),
        ("UPDATE upstreams SET is_default = 0", "No upstream is the default one. Go to the upstreams"),
        (
            "UPDATE upstreams SET removed_at = 1, is_default = 0",
            "There is no upstream that could take them. Go to the upstreams",
        ),
        ("DELETE FROM components", "The SMPP server isn’t running. Try: app.py serve"),
        (
            "UPDATE upstream_binds SET state = 'unbound'",
            "“carrier” is not connected. Go to carrier",
        ),
    ],
)
def test_each_reason_has_its_remedy(
    olga: Browser, conn: db.Connection, add: Callable[[], None], change: str, told: str
) -> None:
    add()
    record_bind(conn, "bound")
    wait(conn, 1)
    conn.execute(change)
    page = read(olga, "/admin/")
    assert "1 message waits. " in page
    assert told in page


def test_each_upstream_that_messages_wait_for_is_told_with_their_number(
    olga: Browser, conn: db.Connection, keys: Keys, add: Callable[[], None]
) -> None:
    add()
    upstreams.create_upstream(conn, keys, SHELL, "other", password="x", host="h", system_id="s")
    record_bind(conn, "unbound")
    wait(conn, 3)
    rows = [((2,), 1, 0, 1000 + each) for each in range(5)]
    with db.write_transaction(conn):
        queue.enqueue_messages(conn, rows)
    page = read(olga, "/admin/")
    first = "5 messages wait. “other” is not connected. Go to other"
    second = "3 messages wait. “carrier” is not connected. Go to carrier"
    assert first in page
    assert second in page
    assert page.index(first) < page.index(second)
    more = {f"more{each}": each for each in range(3, 6)}
    for name, upstream_id in more.items():
        upstreams.create_upstream(conn, keys, SHELL, name, password="x", host="h", system_id="s")
        with db.write_transaction(conn):
            queue.enqueue_messages(conn, [((upstream_id,), 1, 0, 2000 + upstream_id)])
    page = read(olga, "/admin/")
    assert page.count(" Go to ") == 4
    assert "2 messages wait. They are for other upstreams: more4, more5. Go to the upstreams" in page


def test_a_simulator_that_is_disabled_takes_nothing_either(
    alice: Browser, olga: Browser, conn: db.Connection, keys: Keys
) -> None:
    simulator = upstreams.create_upstream(conn, keys, SHELL, "sim", kind=upstreams.SIMULATOR)
    for browser in (alice, olga):
        assert SIMULATOR in read(browser, HOME)
    wait(conn, 1)
    upstreams.disable_upstream(conn, SHELL, simulator)
    assert "1 message waits. “sim” is disabled. Go to sim" in read(olga, HOME)
    # There is no carrier that something could reach a phone by.
    assert SIMULATOR in read(alice, HOME)


def test_mails_that_reach_nobody_are_told_to_operators(
    alice: Browser, olga: Browser, conn: db.Connection, keys: Keys, config: Config, add: Callable[[], None]
) -> None:
    add()
    mail.queue_mail(conn, keys, "marta@acme.example", "check", "en", problems=[], more=0)
    list(mail.send_due_mails(conn, config, keys))
    told = "1 mail is in outbox/, unsent. It is sent once [mail] url is set, and deleted after 7 days."
    for address in OPERATOR_PAGES:
        assert told in read(olga, address), address
    assert 'class="notice' not in alice.get(HOME).text
    for file in mail.list_outbox(config.data):
        file.unlink()
    mail.tend_outbox(conn, config)
    assert 'class="notice' not in olga.get(HOME).text


def test_the_pages_of_operators_do_not_list_the_outbox(
    olga: Browser, conn: db.Connection, keys: Keys, config: Config, add: Callable[[], None]
) -> None:
    add()
    mail.queue_mail(conn, keys, "marta@acme.example", "check", "en", problems=[], more=0)
    list(mail.send_due_mails(conn, config, keys))
    for number in range(3):
        (config.data / "outbox" / f"1.{number}.eml").touch()
    assert "1 mail is in outbox/, unsent." in read(olga, HOME)


def test_mails_that_wait_for_starttls_are_told_to_operators(
    alice: Browser, olga: Browser, conn: db.Connection, keys: Keys, add: Callable[[], None]
) -> None:
    add()
    mail.queue_mail(conn, keys, "marta@acme.example", "check", "en", problems=[], more=0)
    conn.execute("UPDATE mails SET error = 'ConnectionRefusedError: [Errno 111] STARTTLS'")
    assert "mails can hold passwords" not in olga.get(HOME).text
    conn.execute("UPDATE mails SET error = 'UnsecuredMailServer: the server offers no STARTTLS'")
    told = "1 mail waits: the mail server offers no STARTTLS, and mails can hold passwords. See [mail] tls."
    for address in OPERATOR_PAGES:
        assert told in read(olga, address), address
    assert "couldn’t be sent" not in read(olga, HOME)
    assert 'class="notice' not in alice.get(HOME).text


def test_mails_that_no_server_takes_are_told_to_operators(
    alice: Browser, olga: Browser, conn: db.Connection, config: Config, keys: Keys, add: Callable[[], None]
) -> None:
    add()
    nowhere = replace(config, mail=replace(config.mail, url=f"smtp://127.0.0.1:{find_free_port()}"))
    for count, told in (
        (1, "1 mail couldn’t be sent and will be tried again. The error: Connection refused. See [mail] url."),
        (2, "2 mails couldn’t be sent and will be tried again. The last error: Connection refused. See [mail] url."),
    ):
        mail.queue_mail(conn, keys, "marta@acme.example", "check", "en", problems=[], more=0)
        assert [*mail.send_due_mails(conn, nowhere, keys)] == [False]
        for address in OPERATOR_PAGES:
            assert told in read(olga, address), (count, address)
    assert 'class="notice' not in alice.get(HOME).text
    with Mailbox().listening() as mailbox:
        conn.execute("UPDATE mails SET next_attempt_at = 0")
        reachable = replace(config, mail=replace(config.mail, url=mailbox.url))
        assert [*mail.send_due_mails(conn, reachable, keys)] == [True, True]
    assert 'class="notice' not in olga.get(HOME).text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("SMTPAuthenticationError: (535, b'5.7.8 authentication failed')", "535 5.7.8 authentication failed"),
        ("SMTPRecipientsRefused: {'marta@acme.example': (550, b'5.1.1 No such user.')}", "550 5.1.1 No such user"),
        ("gaierror: [Errno -2] Name or service not known", "Name or service not known"),
        ("TimeoutError: timed out", "timed out"),
        ("InvalidTag: ", "InvalidTag"),
    ],
)
def test_what_a_mail_server_has_said_is_told(
    olga: Browser, conn: db.Connection, keys: Keys, error: str, told: str
) -> None:
    mail.queue_mail(conn, keys, "marta@acme.example", "check", "en", problems=[], more=0)
    conn.execute("UPDATE mails SET error = ?", (error,))
    assert f"The error: {told}. See [mail] url." in read(olga, HOME)


def test_that_clamd_is_away_is_told_to_operators(
    make_app: Callable[[Config], Flask],
    cast: Cast,
    conn: db.Connection,
    config: Config,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The web process asks at its start, and goes on with that."""
    caplog.set_level("INFO")
    clamd = Clamd()
    with clamd.listening():
        address = clamd.address
    with_clamd = replace(config, documents=DocumentSettings(clamd=address))
    (job,) = [each for each in jobs.list_jobs(with_clamd, keys, []) if each.name == "clamd"]
    assert job.runs_at_start
    assert not [each for each in jobs.list_jobs(config, keys, []) if each.name == "clamd"]
    app = make_app(with_clamd)

    def log_in(person: Person) -> Browser:
        user, browser = users.get_user_by_email(conn, person.email), app.test_client()
        assert isinstance(browser, Browser)
        return browser.use_login_session(authentication.start_login_session(conn, user, "127.0.0.1", ""))

    olga, alice = log_in(cast.olga), log_in(cast.alice)
    assert "clamd doesn" not in olga.get(HOME).text
    for _ in range(2):
        assert job.run_once(conn)
    (line,) = [each for each in caplog.messages if "clamd" in each]
    refusal = "documents are refused ([documents] clamd): Connection refused"
    assert line == f"clamd at {address} doesn't answer, so {refusal}"
    told = "clamd doesn’t answer, so senders’ documents are refused: Connection refused. See [documents] clamd."
    assert told in read(olga, HOME)
    assert "clamd doesn" not in read(alice, HOME)


def test_a_clamd_that_answers_is_told_of_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clamd = Clamd()
    with clamd.listening(tmp_path / "clamd.ctl"):
        documents.check_clamd(clamd.address)
        assert (documents.get_clamd_fault(clamd.address), caplog.messages) == ("", [])
        clamd.answer = b"UNKNOWN COMMAND\0"
        documents.check_clamd(clamd.address)
        assert "it has answered 'UNKNOWN COMMAND" in documents.get_clamd_fault(clamd.address)
        clamd.answer = None
        documents.check_clamd(clamd.address)
        assert documents.get_clamd_fault(clamd.address) == ""
        assert caplog.messages[1:] == [f"clamd at {clamd.address} answers again"]


def test_that_alerts_do_not_reach_the_webhook_is_told_to_operators(
    make_app: Callable[[Config], Flask],
    cast: Cast,
    conn: db.Connection,
    config: Config,
    keys: Keys,
    add: Callable[[], None],
) -> None:
    add()
    with WebhookServer().listening() as webhook:
        webhook.status = 410
        told = replace(config, alerts=replace(config.alerts, webhook_url=webhook.url))
        holds.hold_account(conn, SYSTEM, cast.smpp_acme_1.id, "brake: busy_hour")
        record_bind(conn, "bound")
        for job in jobs.list_jobs(told, keys, []):
            if job.name in ("alerts", "webhook"):
                assert job.run_once(conn)
    for each, is_told in ((told, True), (config, False)):
        browser = make_app(each).test_client()
        assert isinstance(browser, Browser)
        user = users.get_user_by_email(conn, cast.olga.email)
        browser.use_login_session(authentication.start_login_session(conn, user, "127.0.0.1", ""))
        sentence = "1 alert couldn’t be sent to the webhook and will be tried again. The error: 410 Gone."
        assert (sentence in read(browser, "/profile")) == is_told
    assert not [each for each in jobs.list_jobs(config, keys, []) if each.name == "webhook"]
