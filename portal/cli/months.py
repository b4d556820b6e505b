"""The option of commands that tell about a month."""

import click

from portal.core.clock import now_ms
from portal.services.statistics import months

month_option = click.option("--month", metavar="M", help="A month (UTC), like 2026-11; without it, this one.")


def parse_month_option(text: str | None) -> int:
    """The month of `month_option`, as the services have it. Raises: InvalidMonth"""
    return months.get_month(now_ms()) if text is None else months.parse_month(text)
