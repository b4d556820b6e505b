"""The options of an upstream's settings, made from what is declared of these."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from portal.cli.shell import CommandContext, CommandOutput, DatabaseCommand
from portal.services.upstreams.settings import DEFAULTS, FILE_SETTINGS, GROUPS, RULES, SettingRule, format_setting

_OPTION_GROUPS = {"password_stdin": "bind"} | {name: rule.group for name, rule in RULES.items()}


class SettingsCommand(DatabaseCommand):
    """A command that takes an upstream's settings. Its help has them in groups, as carriers' letters have them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in (*GROUPS, ""):
            records = [
                record
                for each in self.get_params(ctx)
                if isinstance(each, click.Option)
                and _OPTION_GROUPS.get(each.name or "", "") == group
                and (record := each.get_help_record(ctx))
            ]
            with formatter.section(group.capitalize() or "Options"):
                formatter.write_dl(records)


_password_option = click.option(
    "--password-stdin", is_flag=True, help="The password that the carrier gave you is stdin's first line."
)


def settings_options(run: Callable[..., CommandOutput]) -> Callable[..., CommandOutput]:
    """The options of all settings, and of the password; what was given of the settings comes as `settings`."""

    @wraps(run)
    def run_with_settings(context: CommandContext, *arguments: Any, **params: Any) -> CommandOutput:
        given = {name: params.pop(name) for name in RULES}
        settings = {name: value for name, value in given.items() if value is not None}
        for name in FILE_SETTINGS:
            if settings.get(name):
                settings[name] = str(Path(settings[name]).absolute())
        return run(context, *arguments, settings=settings, **params)

    # An option is added in front of those that were added before it.
    decorated: Callable[..., CommandOutput] = run_with_settings
    for name, rule in reversed(list(RULES.items())):
        if name == "system_id":
            decorated = _password_option(decorated)
        decorated = _build_option(name, rule)(decorated)
    return decorated


def _build_option(
    name: str, rule: SettingRule
) -> Callable[[Callable[..., CommandOutput]], Callable[..., CommandOutput]]:
    option = f"--{name.replace('_', '-')}"
    default = format_setting(name, getattr(DEFAULTS, name))
    help = f"{rule.help[0].upper()}{rule.help[1:]}{f' (default {default})' if default else ''}."
    if rule.is_flag:
        return click.option(f"{option}/--no-{option[2:]}", name, default=None, help=help)
    if rule.metavar:
        return click.option(option, name, metavar=rule.metavar, help=help)
    if rule.low is None:
        return click.option(option, name, type=click.Choice(list(rule.words)), help=help)
    # A number that is none is refused (1), and no wrong usage: it is as wrong in a page's form.
    return click.option(option, name, metavar="|".join(["N", *rule.words]), help=help)
