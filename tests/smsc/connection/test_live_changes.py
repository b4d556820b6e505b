"""What a customer changes reaches the sessions that are open."""

import asyncio
from itertools import chain, repeat

import pytest

from portal.core.clock import now_ms
from portal.services.accounts import accounts, allowed_ips, credentials, session_records
from portal.services.common.audit import SHELL
from portal.services.messages.smpp_config import AccountConfig
from portal.services.senders import senders
from portal.smsc.connection import session, session_registry
from portal.smsc.protocol.constants import CommandId, CommandStatus
from tests.smsc.esme import RawEsme, get_account_config, run_smsc, wait_until
from tests.support import DEADLINE_S


def remove_address(conn, keys, account):
    for each in allowed_ips.list_allowed_ips(conn, account.id):
        allowed_ips.remove_allowed_ip(conn, SHELL, account, each.id)


def disable(conn, keys, account):
    accounts.disable_account(conn, SHELL, account)


def change_password(conn, keys, account):
    credentials.regenerate_smpp_password(conn, keys, SHELL, account, send_mail=False)


@pytest.mark.parametrize(
    ("change", "next_bind"),
    [
        (remove_address, CommandStatus.ESME_RBINDFAIL),
        (disable, CommandStatus.ESME_RBINDFAIL),
        (change_password, CommandStatus.ESME_RINVPASWD),
    ],
)
async def test_the_session_is_unbound_and_the_next_bind_refused(
    config, cast, conn, keys, account, wakeup_sender, change, next_bind
):
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        bystander = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
        change(conn, keys, account)
        wakeup_sender.send()
        await esme.wait_for_unbind()
        assert await (await RawEsme.connect(server.port)).bind(login.name, login.password) == next_bind
        assert (await bystander.submit(source="GLOBEX")).status == 0
        await wait_until(lambda: session_records.list_open_smpp_sessions(conn, login.id) == [])


@pytest.mark.slow
async def test_after_the_unbind_submits_are_refused_and_a_silent_client_is_closed(
    config, cast, conn, keys, account, wakeup_sender
):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        disable(conn, keys, account)
        wakeup_sender.send()
        await esme.wait_for_pdu(CommandId.UNBIND)
        assert (await esme.submit()).status == CommandStatus.ESME_RSYSERR
        await esme.wait_for_close()


async def test_a_session_whose_end_was_asked_for_is_unbound_and_no_other(
    config, cast, conn, account, wakeup_sender, change_account
):
    change_account(binds=2)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        (row,) = await wait_until(lambda: session_records.list_open_smpp_sessions(conn, account.id))
        other = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        session_records.request_smpp_session_end(conn, SHELL, account, row.id)
        wakeup_sender.send()
        await esme.wait_for_unbind()
        assert (await other.submit()).status == 0
        again = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await again.submit()).status == 0
        rows = await wait_until(
            lambda: len(rows := session_records.list_open_smpp_sessions(conn, account.id)) == 2 and rows
        )
        assert row.id not in {each.id for each in rows}


@pytest.mark.slow
async def test_an_old_password_in_its_grace_period_stays_until_its_end(
    config, cast, conn, keys, account, wakeup_sender
):
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        new = credentials.regenerate_smpp_password(conn, keys, SHELL, account, grace_ms=1_000, send_mail=False)
        wakeup_sender.send()
        await wait_until(lambda: len(get_account_config(server, login.name).passwords) == 2)
        assert (await esme.submit()).status == 0
        await esme.wait_for_unbind()
        other = await RawEsme.connect(server.port)
        assert await other.bind(login.name, login.password) == CommandStatus.ESME_RINVPASWD
        assert await other.bind(login.name, new) == 0


async def test_what_runs_out_while_the_sessions_look_is_looked_at_again(
    config, cast, conn, keys, account, wakeup_sender, monkeypatch
):
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, login)
        credentials.regenerate_smpp_password(conn, keys, SHELL, account, grace_ms=3_600_000, send_mail=False)
        (expires_at,) = conn.execute("SELECT max(expires_at) FROM smpp_passwords").fetchone()
        # The password is still good when somebody looks first, and no more a millisecond later.
        times = chain([expires_at - 1], repeat(expires_at))
        for module in (session, session_registry):
            monkeypatch.setattr(module, "now_ms", lambda: next(times))
        wakeup_sender.send()
        await esme.wait_for_unbind()


async def test_a_new_password_never_passes_for_the_one_before(config, cast, conn, keys, wakeup_sender):
    # The newest of all passwords: were ids given again, its successor would get the same one.
    account = accounts.get_account(conn, cast.smpp_acme_2.name)
    allowed_ips.add_allowed_ip(conn, SHELL, account, "127.0.0.1")
    password = credentials.regenerate_smpp_password(conn, keys, SHELL, account, send_mail=False)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect(server.port)
        assert await esme.bind(account.name, password) == 0
        change_password(conn, keys, account)
        wakeup_sender.send()
        await esme.wait_for_unbind()


@pytest.mark.slow
async def test_an_address_that_runs_out_ends_the_session(config, cast, conn, wakeup_sender):
    account = accounts.get_account(conn, cast.smpp_acme_2.name)
    allowed_ips.add_allowed_ip(conn, SHELL, account, "127.0.0.1", expires_at=now_ms() + 800)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_2)
        await esme.wait_for_unbind()
        assert await (await RawEsme.connect(server.port)).bind(account.name, cast.smpp_acme_2.password) != 0


async def test_an_address_that_another_entry_covers_ends_nothing(config, cast, conn, wakeup_sender, account):
    allowed_ips.add_allowed_ip(conn, SHELL, account, "127.0.0.0/24")
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        single = allowed_ips.get_allowed_ip_by_network(conn, account.id, "127.0.0.1")
        allowed_ips.remove_allowed_ip(conn, SHELL, account, single.id)
        wakeup_sender.send()
        await wait_until(lambda: len(get_account_config(server, account.name).networks) == 2)
        assert (await esme.submit()).status == 0


async def test_a_sender_that_is_taken_away_is_refused_at_once(config, cast, conn, wakeup_sender, account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit()).status == 0
        conn.execute("DELETE FROM senders WHERE account_id = ?", (account.id,))
        wakeup_sender.send()
        await wait_until(lambda: not get_account_config(server, account.name).senders)
        assert (await esme.submit()).status == CommandStatus.ESME_RINVSRCADR


def changes(server):
    """Waits for the next change of an account that the server works by: `await changes(server)()`."""
    seen: asyncio.Queue[AccountConfig] = asyncio.Queue()
    server.storage.on_account_change(seen.put_nowait)

    async def changed():
        async with asyncio.timeout(DEADLINE_S):
            await seen.get()

    return changed


def disable_sender(conn, keys, account, sender):
    senders.set_sender_enabled(conn, SHELL, account, sender.id, enabled=False)


def refuse_sender(conn, keys, account, sender):
    senders.decide_sender(conn, SHELL, account, sender.address, approve=False, mail_keys=keys)


def remove_sender(conn, keys, account, sender):
    senders.remove_senders(conn, SHELL, account, [sender.id])


def enable_sender(conn, keys, account, sender):
    senders.set_sender_enabled(conn, SHELL, account, sender.id, enabled=True)


def approve_sender(conn, keys, account, sender):
    senders.decide_sender(conn, SHELL, account, sender.address, approve=True, mail_keys=keys)


def restore_sender(conn, keys, account, sender):
    senders.restore_senders(conn, SHELL, account, [sender.id])


@pytest.mark.parametrize(
    ("ban", "allow"),
    [(disable_sender, enable_sender), (refuse_sender, approve_sender), (remove_sender, restore_sender)],
)
async def test_what_is_done_to_a_sender_holds_on_open_connections_and_other_senders_go_on(
    config, cast, conn, keys, wakeup_sender, account, ban, allow
):
    senders.add_sender(conn, SHELL, account, "SHOP")
    senders.decide_sender(conn, SHELL, account, "SHOP", approve=True)
    sender = senders.get_sender(conn, account, "ACME")
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        changed = changes(server)
        for change, answer in ((ban, CommandStatus.ESME_RINVSRCADR), (allow, CommandStatus.ESME_ROK)) * 2:
            change(conn, keys, account, sender)
            wakeup_sender.send()
            # Nothing else may happen to the account, so that the next change of it is this one.
            await changed()
            assert (await esme.submit(source="ACME")).status == answer
            assert (await esme.submit(source="SHOP")).status == CommandStatus.ESME_ROK


async def test_without_a_wakeup_it_holds_too(config, cast, conn, account):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        changed = changes(server)
        senders.set_sender_enabled(conn, SHELL, account, senders.get_sender(conn, account, "ACME").id, enabled=False)
        await changed()
        assert (await esme.submit()).status == CommandStatus.ESME_RINVSRCADR


async def test_whoever_may_send_as_anybody_is_refused_no_sender(
    config, cast, conn, wakeup_sender, account, change_account
):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        assert (await esme.submit(source="ANYBODY")).status == CommandStatus.ESME_RINVSRCADR
        changed = changes(server)
        for any_sender, answer in ((1, CommandStatus.ESME_ROK), (0, CommandStatus.ESME_RINVSRCADR)):
            change_account(any_sender=any_sender)
            wakeup_sender.send()
            await changed()
            assert (await esme.submit(source="ANYBODY")).status == answer
