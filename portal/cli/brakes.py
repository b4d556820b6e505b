"""`brake …`: what an account may send, and what is unusual about its traffic."""

from dataclasses import replace
from typing import Any

import click

from portal.cli.shell import (
    CommandContext,
    CommandDecorator,
    CommandFunction,
    CommandOutput,
    add_group,
    describe,
    format_timestamp,
    list_rows,
)
from portal.services.accounts.accounts import Account
from portal.services.brakes import brakes, unusual_traffic
from portal.services.brakes.brakes import Brakes
from portal.services.brakes.unusual_traffic import OURS, BrakeEvent
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.upstreams import holds

brake_group = add_group("brake")


def _brake_options(run: CommandFunction) -> CommandFunction:
    """What isn't given stays as it is."""
    # As many digits as the page's form takes.
    limit: dict[str, Any] = {"type": click.IntRange(0, 10**12 - 1), "metavar": "N"}
    options: tuple[CommandDecorator, ...] = (
        click.option("--countries", metavar="CC,…", help="Those that it sends to, as IT,FR; or all."),
        click.option("--messages-per-day", "day_messages", help="At most so many (UTC); 0: no limit.", **limit),
        click.option(
            "--credits-per-day",
            "day_credits",
            type=credit_amounts.parse_amount_or_zero,
            metavar="N",
            help="At most so many (UTC); 0: no limit.",
        ),
        click.option(
            "--messages-per-hour", "hour_messages", help="At most so many to one number; 0: no limit.", **limit
        ),
        click.option(
            "--unusual", type=click.Choice(brakes.REACTIONS), help="What unusual traffic leads to: off, alert, hold."
        ),
    )
    for each in reversed(options):
        run = each(run)
    return run


def _change(before: Brakes, countries: str | None, given: dict[str, Any]) -> Brakes:
    changes: dict[str, Any] = {name: value or None for name, value in given.items() if value is not None}
    if countries is not None:
        changes["countries"] = brakes.parse_countries(countries)
    return replace(before, **changes)


@brake_group.command("set", example="brake set smpp-acme-1 --countries IT,FR --messages-per-day 5000 --unusual hold")
@_brake_options
def _set_brakes(context: CommandContext, account: Account, *, countries: str | None, **given: Any) -> CommandOutput:
    """Set an account's; its owner may be stricter. Open sessions go on under them."""
    before = brakes.get_brakes(context.conn, account.id).operator
    brakes.set_brakes(context.conn, SHELL, account, _change(before, countries, given), seen=before.fingerprint)
    return _describe_account(context, account)


@brake_group.command("show", example="brake show smpp-acme-1")
def _show_brakes(context: CommandContext, account: Account) -> CommandOutput:
    """Show an account's that are in force, with its owner's, and what they have refused in the last seven days."""
    return _describe_account(context, account)


@brake_group.command("default", example="brake default --countries IT --unusual hold")
@_brake_options
def _set_default_brakes(context: CommandContext, *, countries: str | None, **given: Any) -> CommandOutput:
    """Set what new accounts get; without options: show it. Accounts that exist keep what they have."""
    if countries is not None or any(each is not None for each in given.values()):
        before = brakes.get_default_brakes(context.conn)
        changed = _change(before, countries, given)
        brakes.set_default_brakes(context.conn, SHELL, changed, seen=before.fingerprint)
    values = _brakes_to_dict(brakes.get_default_brakes(context.conn))
    return describe(values, **_to_words(values))


@brake_group.command("events", example="brake events --all")
@click.option("--all", "shows_all", is_flag=True, help="Those that are over, too.")
def _list_events(context: CommandContext, *, shows_all: bool) -> CommandOutput:
    """List unusual traffic that isn't over, the latest first."""
    list_events = unusual_traffic.list_latest_events if shows_all else unusual_traffic.list_open_events
    rows = [_event_to_dict(each) for each in list_events(context.conn)]
    return list_rows(rows, ("account", "began_at", "ended_at", "held", "answer", "text"))


@brake_group.command("release", example="brake release smpp-acme-1")
def _release(context: CommandContext, account: Account) -> CommandOutput:
    """Say that an account's unusual traffic is its own: what is on hold of it goes on."""
    was_open = unusual_traffic.answer_events(context.conn, SHELL, account, OURS)
    is_released = was_open and account.id not in holds.list_held_account_ids(context.conn)
    text = "released" if is_released else "there was nothing to release"
    if was_open and not is_released:
        text = f"answered; somebody holds it besides (queue release-account {account.name})"
    return CommandOutput({"account": account.name, "released": is_released}, f"{account.name}: {text}")


def _describe_account(context: CommandContext, account: Account) -> CommandOutput:
    found = brakes.get_brakes(context.conn, account.id)
    refused = [
        {"reason": each.reason, "country": each.value or None, "messages": each.count}
        | {"last_at": format_timestamp(each.last_at)}
        for each in brakes.list_refused_messages(context.conn, account.id)
    ]
    values = {"account": account.name, **_brakes_to_dict(found.in_force)}
    words = _to_words(values) | {
        "own": ", ".join(f"{name} {value}" for name, value in _to_words(_brakes_to_dict(found.own)).items()),
        "refused": "; ".join(
            " ".join(str(each[name]) for name in ("messages", "reason", "country") if each[name]) for each in refused
        )
        or "nothing",
    }
    return describe(values | {"own": _brakes_to_dict(found.own), "refused": refused}, **words)


def _brakes_to_dict(shown: Brakes) -> dict[str, object]:
    day_credits = None if shown.day_credits is None else credit_amounts.credits_to_json_number(shown.day_credits)
    return {
        "countries": None if shown.countries is None else sorted(shown.countries),
        "messages_per_day": shown.day_messages,
        "credits_per_day": day_credits,
        "messages_per_hour": shown.hour_messages,
        "unusual": shown.unusual,
    }


def _to_words(values: dict[str, object]) -> dict[str, object]:
    words = {name: "no limit" for name, value in values.items() if value is None}
    codes = values["countries"]
    return {**words, "countries": ",".join(codes) if isinstance(codes, list) else "all"}


def _event_to_dict(event: BrakeEvent) -> dict[str, object]:
    return {
        "id": event.id,
        "account": event.account,
        "kind": event.kind,
        "country": event.country or None,
        "began_at": format_timestamp(event.began_at),
        "ended_at": format_timestamp(event.ended_at),
        "held": event.is_held,
        "answer": event.answer,
        "text": event.describe(),
    }
