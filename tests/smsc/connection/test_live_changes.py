"""What a customer changes reaches the sessions that are open."""

import asyncio

import pytest

from portal.core.clock import now_ms
from portal.services.accounts import accounts, allowed_ips, credentials, session_records
from portal.services.common.audit import SHELL
from portal.services.senders import sender_requests, senders
from portal.smsc.protocol.constants import Status
from tests.smsc.esme import Esme, eventually, smsc
from tests.support import DEADLINE_S


def remove_address(conn, keys, account):
    for each in allowed_ips.of_account(conn, account.id):
        allowed_ips.remove(conn, SHELL, account, each.id)


def disable(conn, keys, account):
    accounts.disable(conn, SHELL, account)


def change_password(conn, keys, account):
    credentials.regenerate(conn, keys, SHELL, account, send_mail=False)


@pytest.mark.parametrize(
    ("change", "next_bind"),
    [
        (remove_address, Status.ESME_RBINDFAIL),
        (disable, Status.ESME_RBINDFAIL),
        (change_password, Status.ESME_RINVPASWD),
    ],
)
async def test_the_session_is_unbound_and_the_next_bind_refused(
    config, cast, conn, keys, account, wakeup_sender, change, next_bind
):
    login = cast.smpp_acme_1
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, login)
        bystander = await Esme.bound(server.port, cast.smpp_globex_1)
        change(conn, keys, account)
        wakeup_sender.send()
        await esme.unbound()
        assert await (await Esme.connect(server.port)).bind(login.name, login.password) == next_bind
        assert (await bystander.submit(source="GLOBEX")).status == 0
        await eventually(lambda: session_records.of_account(conn, login.id) == [])


async def test_after_the_unbind_submits_are_refused_and_a_silent_client_is_closed(
    config, cast, conn, keys, account, wakeup_sender
):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        disable(conn, keys, account)
        wakeup_sender.send()
        await esme.next(6)
        assert (await esme.submit()).status == Status.ESME_RINVBNDSTS
        await esme.closed()


async def test_a_session_whose_end_was_asked_for_is_unbound_and_no_other(
    config, cast, conn, account, wakeup_sender, change_account
):
    change_account(binds=2)
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        (row,) = await eventually(lambda: session_records.of_account(conn, account.id))
        other = await Esme.bound(server.port, cast.smpp_acme_1)
        session_records.end(conn, SHELL, account, row.id)
        wakeup_sender.send()
        await esme.unbound()
        assert (await other.submit()).status == 0
        again = await Esme.bound(server.port, cast.smpp_acme_1)
        assert (await again.submit()).status == 0
        rows = await eventually(lambda: len(rows := session_records.of_account(conn, account.id)) == 2 and rows)
        assert row.id not in {each.id for each in rows}


async def test_an_old_password_in_its_grace_period_stays_until_its_end(
    config, cast, conn, keys, account, wakeup_sender
):
    login = cast.smpp_acme_1
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, login)
        new = credentials.regenerate(conn, keys, SHELL, account, grace=1_000, send_mail=False)
        wakeup_sender.send()
        await eventually(lambda: len(server._storage.account(login.name).passwords) == 2)
        assert (await esme.submit()).status == 0
        await esme.unbound()
        other = await Esme.connect(server.port)
        assert await other.bind(login.name, login.password) == Status.ESME_RINVPASWD
        assert await other.bind(login.name, new) == 0


async def test_a_new_password_never_passes_for_the_one_before(config, cast, conn, keys, wakeup_sender):
    # The newest of all passwords: were ids given again, its successor would get the same one.
    account = accounts.by_name(conn, cast.smpp_acme_2.name)
    allowed_ips.add(conn, SHELL, account, "127.0.0.1")
    password = credentials.regenerate(conn, keys, SHELL, account, send_mail=False)
    async with smsc(config) as server:
        esme = await Esme.connect(server.port)
        assert await esme.bind(account.name, password) == 0
        change_password(conn, keys, account)
        wakeup_sender.send()
        await esme.unbound()


async def test_an_address_that_runs_out_ends_the_session(config, cast, conn, wakeup_sender):
    account = accounts.by_name(conn, cast.smpp_acme_2.name)
    allowed_ips.add(conn, SHELL, account, "127.0.0.1", expires_at=now_ms() + 800)
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_2)
        await esme.unbound()
        assert await (await Esme.connect(server.port)).bind(account.name, cast.smpp_acme_2.password) != 0


async def test_an_address_that_another_entry_covers_ends_nothing(config, cast, conn, wakeup_sender, account):
    allowed_ips.add(conn, SHELL, account, "127.0.0.0/24")
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        single = allowed_ips.by_network(conn, account.id, "127.0.0.1")
        allowed_ips.remove(conn, SHELL, account, single.id)
        wakeup_sender.send()
        await eventually(lambda: len(server._storage.account(account.name).networks) == 2)
        assert (await esme.submit()).status == 0


async def test_a_sender_that_is_taken_away_is_refused_at_once(config, cast, conn, wakeup_sender, account):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        assert (await esme.submit()).status == 0
        conn.execute("DELETE FROM senders WHERE account_id = ?", (account.id,))
        wakeup_sender.send()
        await eventually(lambda: not server._storage.account(account.name).senders)
        assert (await esme.submit()).status == Status.ESME_RINVSRCADR


def changes(server):
    """Waits for the next change of an account that the server works by: `await changes(server)()`."""
    seen = asyncio.Queue()
    server._storage.on_account_change(seen.put_nowait)

    async def changed():
        async with asyncio.timeout(DEADLINE_S):
            await seen.get()

    return changed


def disable_sender(conn, keys, account, sender):
    senders.switch(conn, SHELL, account, sender.id, on=False)


def refuse_sender(conn, keys, account, sender):
    sender_requests.decide(conn, keys, SHELL, account, sender.address, approve=False)


def remove_sender(conn, keys, account, sender):
    senders.remove(conn, SHELL, account, [sender.id])


def enable_sender(conn, keys, account, sender):
    senders.switch(conn, SHELL, account, sender.id, on=True)


def approve_sender(conn, keys, account, sender):
    sender_requests.decide(conn, keys, SHELL, account, sender.address, approve=True)


def restore_sender(conn, keys, account, sender):
    senders.restore(conn, SHELL, account, [sender.id])


@pytest.mark.parametrize(
    ("ban", "allow"),
    [(disable_sender, enable_sender), (refuse_sender, approve_sender), (remove_sender, restore_sender)],
)
async def test_what_is_done_to_a_sender_holds_on_open_connections_and_other_senders_go_on(
    config, cast, conn, keys, wakeup_sender, account, ban, allow
):
    senders.add(conn, SHELL, account, "SHOP")
    senders.decide(conn, SHELL, account, "SHOP", approve=True)
    sender = senders.by_address(conn, account, "ACME")
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        changed = changes(server)
        for change, answer in ((ban, Status.ESME_RINVSRCADR), (allow, Status.ESME_ROK)) * 2:
            change(conn, keys, account, sender)
            wakeup_sender.send()
            # Nothing else may happen to the account, so that the next change of it is this one.
            await changed()
            assert (await esme.submit(source="ACME")).status == answer
            assert (await esme.submit(source="SHOP")).status == Status.ESME_ROK


async def test_without_a_wakeup_it_holds_too(config, cast, conn, account):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        changed = changes(server)
        senders.switch(conn, SHELL, account, senders.by_address(conn, account, "ACME").id, on=False)
        await changed()
        assert (await esme.submit()).status == Status.ESME_RINVSRCADR


async def test_whoever_may_send_as_anybody_is_refused_no_sender(
    config, cast, conn, wakeup_sender, account, change_account
):
    async with smsc(config) as server:
        esme = await Esme.bound(server.port, cast.smpp_acme_1)
        assert (await esme.submit(source="ANYBODY")).status == Status.ESME_RINVSRCADR
        changed = changes(server)
        for any_sender, answer in ((1, Status.ESME_ROK), (0, Status.ESME_RINVSRCADR)):
            change_account(any_sender=any_sender)
            wakeup_sender.send()
            await changed()
            assert (await esme.submit(source="ANYBODY")).status == answer
