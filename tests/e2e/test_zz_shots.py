import os

from portal.core.clock import now_ms
from portal.services.accounts import accounts, refused_binds
from portal.services.accounts.refused_binds import RefusedBind
from tests.support import record_refused_messages

SHOTS = "/tmp/w/shots_core"
os.makedirs(SHOTS, exist_ok=True)


def test_shots(open_tab, server, cast, conn, keys):
    account = accounts.get_account(conn, cast.smpp_acme_1.name)
    record_refused_messages(
        conn,
        account.id,
        {
            ("sender", "NOTMINE"): 118,
            ("sender", "…"): 12000,
            ("sender", "ACME"): 3,
            ("throughput", "20"): 118,
            ("price", "US"): 7,
            ("coding", "4"): 9,
            ("country", "FR"): 4,
            ("day_messages", ""): 44,
            ("length", ""): 1,
            ("format", "ESME_RINVOPTPARAMVAL"): 2,
            ("state", "receiver"): 5,
            ("window", "10"): 12,
        },
    )
    refused_binds.record_refused_binds(
        conn,
        [
            RefusedBind(account.id, a, r, now_ms())
            for a, r in (
                ("203.0.113.7", "wrong_password"),
                ("2001:db8:85a3:8d3:1319:8a2e:370:7348", "not_authorised"),
                ("203.0.113.9", "too_many_binds"),
            )
        ]
        * 3,
    )

    from portal.services.accounts import refused_pdus
    from portal.services.common.audit import SHELL

    refused_pdus.set_refused_pdus_kept(conn, SHELL, account, kept=True)

    tab = open_tab(server)
    for lang in ("en", "it"):
        conn.execute("UPDATE users SET language = ?", (lang,))
        for width in (1280, 390):
            for name, path in (
                ("refused", "/accounts/smpp-acme-1/refused"),
                ("home", "/accounts/smpp-acme-1"),
                ("sessions", "/accounts/smpp-acme-1/sessions"),
            ):
                tab.page.set_viewport_size({"width": width, "height": 900})
                tab.open_as(cast.alice, path)
                tab.page.wait_for_load_state("load")
                tab.page.screenshot(path=f"{SHOTS}/{name}-{lang}-{width}.png", full_page=True)
