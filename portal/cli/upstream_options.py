"""The options of an upstream's settings, made from what is declared of these."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from portal.cli.groups import CommonOptions
from portal.cli.shell import CommandOutput, DatabaseCommand
from portal.services.upstreams.settings import DEFAULTS, FILE_SETTINGS, GROUPS, RULES, format_setting

_OPTION_GROUPS = {"password_stdin": "bind"} | {name: rule.group for name, rule in RULES.items()}


class SettingsCommand(DatabaseCommand):
    """A command that takes an upstream's settings and its password: what was given of the settings comes as `settings`.

    Its help has the options in groups, as carriers' letters have them.
    """

    def __init__(self, *args: Any, params: Sequence[click.Parameter], **attributes: Any) -> None:
        help = "The password that the carrier gave you is stdin's first line."
        password = click.Option(["--password-stdin"], is_flag=True, help=help)
        options = [_build_option(name) for name in RULES]
        options.insert([*RULES].index("system_id") + 1, password)
        super().__init__(*args, params=[*params, *options], **attributes)

    def run(self, options: CommonOptions, params: dict[str, Any]) -> CommandOutput:
        given = {name: params.pop(name) for name in RULES}
        settings = {name: value for name, value in given.items() if value is not None}
        for name in FILE_SETTINGS:
            if settings.get(name):
                settings[name] = str(Path(settings[name]).absolute())
        return super().run(options, {**params, "settings": settings})

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


def _build_option(name: str) -> click.Option:
    rule = RULES[name]
    option = f"--{name.replace('_', '-')}"
    default = format_setting(name, getattr(DEFAULTS, name))
    help = f"{rule.help[0].upper()}{rule.help[1:]}{f' (default {default})' if default else ''}."
    if rule.is_flag:
        return click.Option([f"{option}/--no-{option[2:]}", name], default=None, help=help)
    if rule.metavar:
        return click.Option([option, name], metavar=rule.metavar, help=help)
    if rule.low is None:
        return click.Option([option, name], type=click.Choice(list(rule.words)), help=help)
    # A number that is none is refused (1), and no wrong usage: it is as wrong in a page's form.
    return click.Option([option, name], metavar="|".join(["N", *rule.words]), help=help)
