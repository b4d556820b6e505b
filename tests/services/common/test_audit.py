from portal.core.clock import now_ms
from portal.services.accounts import accounts, allowed_ips
from portal.services.common import audit
from portal.services.common.audit import Actor
from tests.services.audit_log import list_audit_entries


def test_who_did_what_from_where(conn, acme_2):
    actor = Actor("alice@acme.example", "192.0.2.1")
    allowed_ips.add_allowed_ip(conn, actor, acme_2, "203.0.113.7", label="Office")
    accounts.disable_account(conn, actor, acme_2)
    disabled, added, *_ = list_audit_entries(conn, acme_2.id)
    assert (disabled.action, added.action) == ("account.disable", "ip.add")
    assert (added.actor, added.address) == ("alice@acme.example", "192.0.2.1")
    assert added.details["network"] == "203.0.113.7"
    assert abs(added.at - now_ms()) < 10_000


def test_old_entries_are_forgotten(conn, acme_2):
    assert list_audit_entries(conn, acme_2.id)
    audit.purge_audit_log(conn, now_ms() + 1)
    assert list_audit_entries(conn, acme_2.id) == []
