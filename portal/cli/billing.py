"""`pack …` and `order …`: what is sold, and what was bought."""

import click

from portal.cli.shell import CommandContext, CommandOutput, add_group, describe, format_table, list_rows, named_argument
from portal.core import i18n
from portal.core.db import write_transaction
from portal.services.accounts import accounts
from portal.services.billing import orders, packs
from portal.services.billing.orders import Order, OrderFilter
from portal.services.billing.packs import Pack
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.people import customers

order_group = add_group("order", order=named_argument("NUMBER", orders.get_order_by_number))
pack_group = add_group("pack")


# --- order


@order_group.command("list", example="order list --customer Acme --status open")
@click.option("--account", "account_name", metavar="NAME", help="Of one account.")
@click.option("--customer", "customer_name", metavar="NAME", help="Of one customer.")
@click.option("--status", type=click.Choice(orders.STATUSES))
def _list_orders(
    context: CommandContext, *, account_name: str | None, customer_name: str | None, status: str | None
) -> CommandOutput:
    """List them, the newest first."""
    order_filter = OrderFilter(
        account_id=accounts.get_account(context.conn, account_name).id if account_name else None,
        customer_id=customers.get_customer(context.conn, customer_name).id if customer_name else None,
        status=status,
    )
    rows = [orders.order_to_dict(each) for each in orders.iterate_orders(context.conn, order_filter)]
    return list_rows(rows, ("order", "created", "customer", "account", "credits", "price", "currency", "status"))


@order_group.command("show", example="order show 2026-00042")
def _show_order(context: CommandContext, order: Order) -> CommandOutput:
    """Show one."""
    return _describe_order(order)


@order_group.command("pay", example="order pay 2026-00042 --note 'bank transfer of 12 March'")
@click.option("--note", default="", metavar="T", help="How it was paid; the customer sees it.")
def _pay_order(context: CommandContext, order: Order, *, note: str) -> CommandOutput:
    """Mark one as paid: its credits arrive, and the customer gets a mail."""
    return _describe_order(orders.confirm_payment(context.conn, context.keys, SHELL, order, note))


@order_group.command("cancel", example="order cancel 2026-00042")
def _cancel_order(context: CommandContext, order: Order) -> CommandOutput:
    """Close one that won't be paid."""
    return _describe_order(orders.cancel_order(context.conn, SHELL, order))


def _describe_order(order: Order) -> CommandOutput:
    return describe(orders.order_to_dict(order), credits_arrived="yes" if order.credited else "no")


# --- pack


def _parse_pack_price(text: str) -> tuple[str, str]:
    """CREDITS=PRICE, as the two texts."""
    size, equals, price = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not CREDITS=PRICE, like 1000=60.00")
    return size, price


@pack_group.command("list", example="pack list")
def _list_packs(context: CommandContext) -> CommandOutput:
    """List what is sold."""
    return _describe_packs(packs.list_packs(context.conn))


@pack_group.command("set", example="pack set 1000=60.00 5000=275.00 --currency EUR")
@click.argument("pack_prices", nargs=-1, required=True, type=_parse_pack_price, metavar="CREDITS=PRICE...")
@click.option("--currency", metavar="CODE", help="Of ISO 4217; one for all packs (default: theirs).")
def _set_packs(
    context: CommandContext, pack_prices: tuple[tuple[str, str], ...], *, currency: str | None
) -> CommandOutput:
    """Sell packs for these prices; the others stay."""
    with write_transaction(context.conn):
        packs_by_credits = {each.credits: each for each in packs.list_packs(context.conn)}
        current_currency = next((each.currency for each in packs_by_credits.values()), "")
        currency = packs.parse_currency(current_currency if currency is None else currency)
        for size, price in pack_prices:
            thousandths = credit_amounts.parse_amount(size)
            packs_by_credits[thousandths] = Pack(thousandths, packs.parse_pack_price(price, currency), currency)
        return _describe_packs(packs.replace_packs(context.conn, SHELL, list(packs_by_credits.values())))


@pack_group.command("remove", example="pack remove 1000")
@click.argument("sizes", nargs=-1, required=True, type=credit_amounts.parse_amount, metavar="CREDITS...")
def _remove_packs(context: CommandContext, sizes: tuple[int, ...]) -> CommandOutput:
    """Sell packs no more."""
    with write_transaction(context.conn):
        removed_sizes = {packs.get_pack(context.conn, size).credits for size in sizes}
        remaining = [each for each in packs.list_packs(context.conn) if each.credits not in removed_sizes]
        return _describe_packs(packs.replace_packs(context.conn, SHELL, remaining))


def _describe_packs(pack_list: list[Pack]) -> CommandOutput:
    rows: list[dict[str, object]] = [
        {
            "credits": credit_amounts.credits_to_json_number(each.credits),
            "price": i18n.format_money_for_machines(each.price, each.currency),
            "currency": each.currency,
        }
        for each in pack_list
    ]
    lines = [(*row.values(), each.unit_price) for row, each in zip(rows, pack_list, strict=True)]
    return CommandOutput(rows, format_table(("credits", "price", "currency", "a credit"), lines))
