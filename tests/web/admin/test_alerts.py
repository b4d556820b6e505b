"""What is wrong now, on the operator's first page."""

from portal.services.accounts import session_records
from portal.services.common.audit import SHELL, SYSTEM
from portal.services.operations import alerts
from portal.services.upstreams import holds
from tests.services.upstreams.waiting import add_upstream
from tests.web.acting import extract_text


def test_what_is_wrong_is_listed_until_it_is_over_with_what_helps(olga, client, cast, conn, config, keys):
    session_records.record_component_heartbeat(conn, "smsc", 0)
    carrier = add_upstream(conn, keys)
    holds.hold_account(conn, SYSTEM, cast.smpp_acme_1.id, "brake: busy_hour")
    alerts.watch(conn, config, keys)
    page = olga.get("/admin/").text
    # Nobody was told of the upstream yet.
    assert "What is wrong now smpp-acme-1 is on hold: unusual traffic" in " ".join(extract_text(page).split())
    assert "is not connected" not in page
    assert '<a href="/admin/accounts/smpp-acme-1">smpp-acme-1 is on hold: unusual traffic</a>' in page
    conn.execute("UPDATE alerts SET since = 1")
    alerts.watch(conn, config, keys)
    page = olga.get("/admin/").text
    link = f'<a href="/admin/upstreams/{carrier.id}">“carrier” is not connected</a>'
    assert link in page
    assert "on hold" not in client(cast.alice).get("/accounts/smpp-acme-1/history").text
    holds.release_account(conn, SHELL, cast.smpp_acme_1.id)
    alerts.watch(conn, config, keys, conn.execute("SELECT max(seen_at) FROM alerts").fetchone()[0] + alerts.OVER_MS)
    page = olga.get("/admin/").text
    assert "unusual traffic" not in page
    assert link in page


def test_each_leads_to_a_page_that_there_is(olga, cast, conn, keys):
    carrier = add_upstream(conn, keys)
    rows = [
        ("upstream_unbound", carrier.id, "carrier", '{"error": "it answers nothing"}'),
        ("delivery_rate", carrier.id, "carrier", '{"rate": 0.5, "usual": 0.98}'),
        ("old_queue", carrier.id, "carrier", '{"messages": 1234}'),
        ("old_queue", 0, "", '{"messages": 1}'),
        ("account_held", cast.smpp_acme_1.id, "smpp-acme-1", "{}"),
        ("failing_mails", 0, "", '{"mails": 2}'),
        ("refused_mails", 0, "", '{"mails": 1}'),
        ("full_disk", 0, "", '{"free_mb": 120, "share": 0.0123}'),
        ("server_stopped", 0, "", "{}"),
    ]
    conn.executemany(
        "INSERT INTO alerts (kind, subject_id, subject, figures, since, seen_at, told_at) VALUES (?, ?, ?, ?, 1, 1, 1)",
        rows,
    )
    listed = alerts.list_alerts(conn)
    assert len(listed) == len(rows)
    text = " ".join(extract_text(olga.get("/admin/").text).split())
    for each in listed:
        assert f"{each.title}. {each.detail}".strip() in text.replace(" . ", ". ")
        assert olga.get(each.path).status_code == 200


def test_of_a_great_many_some_are_listed(olga, conn):
    conn.executemany(
        "INSERT INTO alerts (kind, subject_id, subject, figures, since, seen_at, told_at)"
        " VALUES ('account_held', ?, 'smpp-acme-1', '{}', 1, 1, 1)",
        [(each,) for each in range(1, 31)],
    )
    page = olga.get("/admin/").text
    assert page.count("unusual traffic") == 20
    assert "10 more are not listed here." in page
