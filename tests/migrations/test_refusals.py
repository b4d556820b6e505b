"""The migration to refusals by the hour: what was counted before stays, and who was told of it is not told again."""

from portal import migrations
from portal.core import db
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.services.accounts import refusals
from portal.services.accounts.refused_binds import NOT_AUTHORISED, REPLACED_PASSWORD
from portal.services.accounts.refused_messages import COUNTRY, DAY_MESSAGES
from portal.services.messages import refusal_mails
from tests.migrations.test_migrations import before_step


def test_what_was_refused_and_who_was_told_of_it_stays_known(tmp_path):
    file = tmp_path / db.FILE_NAME
    first, last = now_ms() - 90_000_000, now_ms() - 3_600_000
    before_step(
        file,
        "m0047",
        f"""
        INSERT INTO users (id, customer_id, email, role, created_at, refusal_mails)
            VALUES (1, 1, 'alice@acme.example', 'owner', 0, 1);
        INSERT INTO refused_binds (account_id, address, reason, count, first_at, last_at, password_id) VALUES
            (1, '203.0.113.7', '{NOT_AUTHORISED}', 3, {first}, {last}, NULL),
            (1, '203.0.113.8', '{REPLACED_PASSWORD}', 2, {first}, {last - 1}, 7);
        INSERT INTO mailed_refusals (account_id, address, reason, user_id) VALUES
            (1, '203.0.113.7', '{NOT_AUTHORISED}', 1), (1, '203.0.113.8', '{REPLACED_PASSWORD}', 1);
        INSERT INTO refused_messages VALUES
            (1, '{COUNTRY}', 'JP', 12, {first}, {last - 2}), (1, '{DAY_MESSAGES}', '', 5, {first}, {last - 3});
        """,
    )
    migrations.migrate(file)
    conn = db.connect(file)
    found = refusals.list_refusals(conn, 1, last - 3)
    assert [(each.is_bind, each.reason, each.value, each.count, each.password_id) for each in found] == [
        (1, NOT_AUTHORISED, "203.0.113.7", 3, None),
        (1, REPLACED_PASSWORD, "203.0.113.8", 2, 7),
        (0, COUNTRY, "JP", 12, None),
        (0, DAY_MESSAGES, "", 5, None),
    ]
    assert {each.first_at for each in found} == {first}
    latest = conn.execute("SELECT is_bind, at FROM latest_refusals ORDER BY 1").fetchall()
    assert [tuple(each) for each in latest] == [(0, last - 2), (1, last)]
    told = [tuple(each) for each in conn.execute("SELECT is_bind, reason, value FROM mailed_refusals ORDER BY value")]
    assert told == [(1, NOT_AUTHORISED, "203.0.113.7"), (1, REPLACED_PASSWORD, "203.0.113.8")]
    Keys.create(tmp_path)
    assert refusal_mails.queue_due_refusal_mails(conn, Keys.load(tmp_path)) == 1
    mailed = conn.execute("SELECT is_bind, reason FROM mailed_refusals ORDER BY 1, 2").fetchall()
    assert [tuple(each) for each in mailed] == sorted((each.is_bind, each.reason) for each in found)
    conn.close()
