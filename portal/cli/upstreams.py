"""`upstream …`: operators' connections to carriers."""

import shlex
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from portal.cli.groups import CommonOptions
from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    DatabaseCommand,
    add_group,
    fields_to_dict,
    format_names_and_values,
    format_table,
    format_timestamp,
    list_rows,
    named_argument,
    read_password,
    wrong_usage,
)
from portal.cli.upstream_figures import UpstreamFigures, list_figures
from portal.services.accounts import session_records
from portal.services.common.audit import SHELL, Actor
from portal.services.upstreams import binds, counters, message_ids, traces, unclaimed, upstreams, waiting_counts
from portal.services.upstreams.binds import BindState, UpstreamState
from portal.services.upstreams.health import GOOD, UpstreamHealth
from portal.services.upstreams.paths import DEFAULT_PATH, get_path_upstreams, is_held_path
from portal.services.upstreams.settings import (
    ASCII,
    DEFAULTS,
    FILE_SETTINGS,
    GROUPS,
    LATIN_1,
    RULES,
    SIMULATOR_SETTINGS,
    UCS2,
    UpstreamSettings,
    format_setting,
    format_settings,
)
from portal.services.upstreams.upstreams import Upstream

if TYPE_CHECKING:
    from portal.cli.connection_test import ConnectionStep
    from portal.services.messages.kept_receipts import ReceiptHint

upstream_group = add_group("upstream", upstream=named_argument("NAME", upstreams.get_upstream))

_SERVER_STOPPED = "the SMPP server isn't running"


# --- the options of its settings, made from what is declared of these

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

    def invoke(self, ctx: click.Context) -> int:
        given = {name: ctx.params.pop(name) for name in RULES}
        ctx.params["settings"] = {name: value for name, value in given.items() if value is not None}
        return super().invoke(ctx)

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


def _make_absolute(path: str) -> str:
    return path and str(Path(path).absolute())


def _build_option(name: str) -> click.Option:
    rule = RULES[name]
    option = f"--{name.replace('_', '-')}"
    default = format_setting(name, getattr(DEFAULTS, name))
    help = f"{rule.help[0].upper()}{rule.help[1:]}{f' (default {default})' if default else ''}."
    if rule.is_flag:
        return click.Option([f"{option}/--no-{option[2:]}", name], default=None, help=help)
    if rule.metavar:
        type = _make_absolute if name in FILE_SETTINGS else None
        return click.Option([option, name], type=type, metavar=rule.metavar, help=help)
    if rule.low is None:
        return click.Option([option, name], type=click.Choice(list(rule.words)), help=help)
    # A number that is none is refused (1), and no wrong usage: it is as wrong in a page's form.
    return click.Option([option, name], metavar="|".join(["N", *rule.words]), help=help)


# --- the commands


@upstream_group.command(
    "add",
    cls=SettingsCommand,
    example="upstream add carrier --host smpp.carrier.example --port 3550 --tls --system-id acme --password-stdin",
)
@click.argument("name", metavar="NAME")
@click.option(
    "--kind",
    type=click.Choice(upstreams.KINDS),
    default=upstreams.SMPP,
    help="A carrier's SMSC, or a simulator that makes outcomes up (default smpp).",
)
def _create_upstream(
    context: CommandContext, name: str, *, kind: str, password_stdin: bool, settings: dict[str, Any]
) -> CommandOutput:
    """Add one, which connects at once. The first one becomes the default."""
    if kind == upstreams.SMPP and not password_stdin:
        wrong_usage("give the password of the carrier's letter, too: --password-stdin reads it from stdin's first line")
    if kind == upstreams.SIMULATOR and password_stdin:
        wrong_usage("a simulator has no password: leave --password-stdin out")
    password = read_password() if password_stdin else ""
    upstream = upstreams.create_upstream(
        context.conn, context.keys, SHELL, name, kind=kind, password=password, **settings
    )
    return replace(_describe_change(context, upstream.id, None), problem=_warn_of_open_key(upstream.settings))


@upstream_group.command(
    "change", cls=SettingsCommand, example="upstream change carrier --throughput 50 --window 20 --no-tls-verify"
)
@click.option("--name", "new_name", metavar="NAME", help="Another name.")
def _change_upstream(
    context: CommandContext,
    upstream: Upstream,
    *,
    new_name: str | None,
    password_stdin: bool,
    settings: dict[str, Any],
) -> CommandOutput:
    """Change one; it connects anew where that is needed. What isn't given stays as it is."""
    password = read_password() if password_stdin else None
    changed = upstreams.change_upstream(
        context.conn, context.keys, SHELL, upstream, name=new_name, password=password, **settings
    )
    output = _describe_change(context, upstream.id, upstream, has_new_password=password is not None)
    return replace(output, problem=_warn_of_open_key(changed.settings))


def _warn_of_open_key(settings: UpstreamSettings) -> str:
    key = settings.tls_key or settings.tls_certificate
    if not key:
        return ""
    # Imported here: other commands need no TLS.
    from portal.core import tls_client

    return tls_client.describe_open_key(key)


@upstream_group.command("list", example="upstream list --json")
def _list_upstreams(context: CommandContext) -> CommandOutput:
    """List all, with what they are doing."""
    states = binds.list_upstream_states(context.conn)
    figures = list_figures(context.conn, [each.upstream.id for each in states])
    rows = [_state_to_dict(each, figures[each.upstream.id]) for each in states]
    if not rows:
        where = "wait" if upstreams.has_ever_had_upstream(context.conn) else "go to the built-in simulator"
        return CommandOutput(rows, f"There is no upstream: messages {where}.")
    table = [
        (
            each.upstream.name,
            each.upstream.kind,
            _format_state(each),
            f"{sum(bind.state == binds.BOUND for bind in each.binds)}/{len(each.binds)}" if each.binds else "",
            figures[each.upstream.id].waiting.count,
            "default" if each.upstream.is_default else "",
        )
        for each in states
    ]
    lines = [format_table(("name", "kind", "state", "binds", "queued", ""), table)]
    if not any(each.upstream.is_default for each in states):
        lines.append("None is the default one: a message that no route takes is refused.")
    if not session_records.is_component_alive(context.conn, "smsc"):
        lines.append(f"{_SERVER_STOPPED[0].upper()}{_SERVER_STOPPED[1:]}: nothing is bound.")
    for each in states:
        if error := next((bind.error for bind in each.binds if bind.error), ""):
            lines.append(f"{each.upstream.name}: {error}")
    return CommandOutput(rows, "\n".join(lines))


@upstream_group.command("show", example="upstream show carrier")
def _show_upstream(context: CommandContext, upstream: Upstream) -> CommandOutput:
    """Show one: its settings, its binds and what was counted."""
    return _describe_state(context, binds.get_upstream_state(context.conn, upstream.id))


@upstream_group.command("test", example="upstream test carrier")
def _test_upstream(context: CommandContext, upstream: Upstream) -> CommandOutput:
    """Connect, bind and unbind from here: what works, step by step, and what to do where it doesn't.

    Where it has a second host, both are tested, and the exit status is 1 where either fails.
    Where the carrier allows only as many binds as the server holds, it refuses this one: nothing is wrong then.
    """
    if upstream.kind == upstreams.SIMULATOR:
        text = f"{upstream.name} is a simulator: it connects to nothing, and is always ready."
        return CommandOutput({"name": upstream.name, "ok": True, "steps": []}, text)
    # Imported here: no other command of these needs an event loop.
    from portal.cli import connection_test

    password = upstreams.get_upstream_password(context.conn, context.keys, upstream)
    upstreams.record_connection_test(context.conn, SHELL, upstream.name, upstream.settings, with_stored_password=True)
    wording = replace(connection_test.SHELL_WORDING, format_command=context.config.format_command)
    steps = connection_test.run_connection_test(upstream.name, upstream.settings, password, wording)
    # Afterwards: by then the server has taken over what was changed a moment ago.
    state = binds.get_upstream_state(context.conn, upstream.id)
    if state.state == binds.BOUND:
        steps = [*map(connection_test.excuse_refused_bind, steps)]
    failed = [each for each in steps if not each.ok]
    value = {
        "name": upstream.name,
        "ok": not failed,
        "steps": [fields_to_dict(each, "host", "step", "ok", "detail") for each in steps],
    }
    hosts = {host: [*of_it] for host, of_it in groupby(steps, lambda each: each.host)}
    text = "\n\n".join(_format_steps(host if len(hosts) > 1 else "", of_it) for host, of_it in hosts.items())
    if not upstream.enabled or upstream.draining:
        why = "being drained" if upstream.draining else "disabled"
        command = context.config.format_command(f"upstream enable {upstream.name}")
        text += f"\nIt is {why}, so no messages go out: {command}"
    if not failed:
        return CommandOutput(value, text, _warn_of_open_key(upstream.settings))
    problem = f"{upstream.name}: " + ", and ".join(
        f"{each.step} failed{f' at {each.host}' if len(hosts) > 1 else ''}" for each in failed
    )
    if len(failed) < len(hosts):
        problem += "; the server can bind to the other host alone"
    if bound_count := sum(each.state == binds.BOUND for each in state.binds):
        problem += f" (the server has {bound_count} of its binds bound: the carrier may allow no more)"
    return CommandOutput(value, text, problem, status=1)


@upstream_group.command("probe", hidden=True, example="upstream probe")
def _probe_connection(context: CommandContext) -> CommandOutput:
    """For the page, which has no event loop: test the settings that stdin has, see connection_test.probe."""
    from portal.cli import connection_test

    connection_test.probe(context.conn, context.keys)
    return CommandOutput(None, "")


def _format_steps(host: str, steps: "Sequence[ConnectionStep]") -> str:
    """A line a step of a test, under the name of its host, if there is any."""
    lines = [f"{each.step:<12}  {'ok' if each.ok else 'FAILED':<6}  {each.detail}" for each in steps]
    return "\n".join([host, *lines] if host else lines)


def _add_state_command(name: str, change: Callable[[sqlite3.Connection, Actor, Upstream], None], help: str) -> None:
    @upstream_group.command(name, help=help, example=f"upstream {name} carrier")
    def change_state(context: CommandContext, upstream: Upstream) -> CommandOutput:
        change(context.conn, SHELL, upstream)
        return _describe_change(context, upstream.id, upstream)


_add_state_command("enable", upstreams.enable_upstream, "Let one connect and take messages, also after drain.")
_add_state_command("disable", upstreams.disable_upstream, "Unbind one. What waits for it goes on waiting.")
_add_state_command(
    "drain",
    upstreams.drain_upstream,
    "Give one no more messages; its receipts still come, and what waits goes on waiting.",
)


@upstream_group.command("default", example="upstream default carrier")
@click.argument("name", required=False)
@click.option("--none", "is_none", is_flag=True, help="None: a message that no route takes is refused.")
def _set_default_upstream(context: CommandContext, name: str | None, *, is_none: bool) -> CommandOutput:
    """Let messages take one that no route takes, also those that wait already; or none."""
    if is_none == (name is not None):
        wrong_usage("name the upstream that is to be the default one, or say --none")
    if name is not None:
        upstream = upstreams.get_upstream(context.conn, name)
        upstreams.set_default_upstream(context.conn, SHELL, upstream)
        return _describe_change(context, upstream.id, upstream)
    # What waits for the default one was accepted before.
    waiting_count = waiting_counts.count_waiting_messages_by_path(context.conn).get(DEFAULT_PATH, 0)
    upstreams.set_default_upstream(context.conn, SHELL, None)
    warning = f"Messages wait for a default upstream, and were accepted: {waiting_count}. They wait until there is one."
    return CommandOutput(
        {"default": None, "waiting": waiting_count},
        "There is no default upstream: a message that no route takes is refused.",
        warning if waiting_count else "",
    )


@upstream_group.command("remove", example="upstream remove carrier")
def _remove_upstream(context: CommandContext, upstream: Upstream) -> CommandOutput:
    """Remove one that no messages wait for; what it has sent goes on naming it. Receipts that have not come by then
    match nothing any more.
    """
    unreported_count = upstreams.count_unreported_messages(context.conn, upstream)
    upstreams.remove_upstream(context.conn, SHELL, upstream)
    warning = (
        f"Messages that it has accepted and that have no final receipt: {unreported_count}. None will match them any"
        " more: they end when their validity does. An upstream that is drained goes on getting its receipts."
    )
    return CommandOutput(
        {"name": upstream.name},
        f"{upstream.name} removed",
        warning if unreported_count else "",
    )


@upstream_group.command("trace", example="upstream trace carrier --minutes 5 --follow")
@click.option("--minutes", metavar="N", help=f"Trace it from now on, for so long: 1 to {traces.MAX_MINUTES}.")
@click.option("--stop", is_flag=True, help="Trace it no more.")
@click.option("--follow", is_flag=True, help="Print PDUs as they come, until the trace ends.")
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="How many that were traced before."
)
def _trace_upstream(
    context: CommandContext, upstream: Upstream, *, minutes: str | None, stop: bool, follow: bool, limit: int
) -> CommandOutput:
    """List its PDUs that were traced, oldest first; texts, passwords and the middle of numbers are masked."""
    if stop and (minutes or follow):
        wrong_usage("--stop goes with no --minutes and no --follow")
    if minutes is not None:
        traces.start_trace(context.conn, SHELL, upstream, minutes)
    if stop:
        traces.stop_trace(context.conn, SHELL, upstream)
    # Imported here: most commands need none of it.
    from portal.cli import upstream_traces

    if follow:
        as_json = click.get_current_context().ensure_object(CommonOptions).json
        return upstream_traces.follow_trace(context, upstream, as_json=as_json)
    return upstream_traces.describe_trace(context, upstream, limit)


def _add_kept_command(name: str, table: str, columns: Sequence[str], help: str) -> None:
    """Add a command that lists what is kept of all upstreams or of one."""

    @upstream_group.command(name, help=help, example=f"upstream {name} carrier --limit 20")
    @click.argument("name", required=False)
    @click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many.")
    def list_kept_of_upstream(context: CommandContext, *, name: str | None, limit: int) -> CommandOutput:
        upstream_id = None if name is None else upstreams.get_upstream(context.conn, name).id
        names = upstreams.get_upstream_names(context.conn)
        rows = [
            fields_to_dict(each, *unclaimed.COLUMNS[table])
            | {"received_at": format_timestamp(each.received_at), "upstream": names.get(each.upstream or 0, "")}
            for each in unclaimed.list_kept(context.conn, table, upstream_id, limit)
        ]
        if not rows:
            return CommandOutput(rows, "There is none.")
        output = list_rows(rows, columns)
        if table == unclaimed.UNMATCHED_RECEIPTS:
            # Imported here: most commands need none of what it needs.
            from portal.services.messages import kept_receipts

            hints = kept_receipts.find_hints(context.conn, upstream_id)
            return replace(output, text="\n".join([output.text, *(_describe_hint(context, each) for each in hints)]))
        return output


def _describe_hint(context: CommandContext, hint: "ReceiptHint") -> str:
    options = [f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in hint.changes.items()]
    command = context.config.format_command(f"upstream change {hint.upstream.name} {' '.join(options)}")
    return f"{hint.upstream.name}: of the last {hint.total} receipts {hint.describe()}. Set it: {command}"


# A receipt's text says what its other columns do.
_add_kept_command(
    "unmatched",
    unclaimed.UNMATCHED_RECEIPTS,
    unclaimed.COLUMNS[unclaimed.UNMATCHED_RECEIPTS][:-1],
    "List receipts that belong to no message, newest first, with the ids that were looked for.",
)
_add_kept_command(
    "unowned",
    unclaimed.UNOWNED_MESSAGES,
    unclaimed.COLUMNS[unclaimed.UNOWNED_MESSAGES],
    "List messages from handsets that no account takes, newest first.",
)


def _state_to_dict(state: UpstreamState, figures: UpstreamFigures) -> dict[str, object]:
    return {
        "name": state.upstream.name,
        "enabled": state.upstream.enabled,
        "state": state.state,
        "queued": figures.waiting.count,
        "kind": state.upstream.kind,
        "default": state.upstream.is_default,
        "binds": [fields_to_dict(each, "kind", "state") for each in state.binds],
        "health": state.health.state,
        **figures.to_dict(),
    }


def _describe_change(
    context: CommandContext, upstream_id: int, before: Upstream | None, *, has_new_password: bool = False
) -> CommandOutput:
    """What was changed of an upstream, for people, what came of it, and how they see all of the upstream.

    What is stored of its binds is from before, until the server has taken the change over.

    Args:
        before: as it was; None: it is new.
    """
    state = binds.get_upstream_state(context.conn, upstream_id)
    is_changed = before is None or state.upstream.version != before.version
    if is_changed and session_records.is_component_alive(context.conn, "smsc"):
        state = binds.replace_state_by_pending(state)
    upstream = state.upstream
    queued = upstreams.count_waiting_messages(context.conn).get(upstream.id, 0)
    unreported_count = upstreams.count_unreported_messages(context.conn, upstream) if upstream.draining else 0
    changed = _format_changed_settings(upstream.settings, before)
    rows: dict[str, object] = {
        "name": upstream.name,
        **changed,
        **({"password": "changed"} if has_new_password else {}),
        "state": _format_state_at_length(context, state),
        **({"default": "yes"} if upstream.is_default else {}),
        **({"queued": queued} if queued else {}),
        **({"without a final receipt": unreported_count} if unreported_count else {}),
        "all of it": context.config.format_command(f"upstream show {upstream.name}"),
    }
    text = format_names_and_values(rows)
    charset = upstream.settings.charset
    if (
        changed.keys() & {"charset", "missing_characters"}
        and charset in (LATIN_1, ASCII)
        and upstream.settings.missing_characters == UCS2
    ):
        text += (
            f"\nTexts with a character that {charset} lacks, such as the euro sign, go out in UCS-2, and may be two"
            " parts for the carrier that are one for their customer: see --missing-characters."
        )
    return replace(_describe_state(context, state), text=text)


def _format_changed_settings(settings: UpstreamSettings, before: Upstream | None) -> dict[str, str]:
    """Those that differ from before, with both values; of a new upstream those that differ from the defaults."""
    former = format_settings(before.settings if before else DEFAULTS)
    return {
        name: f"{value or '(empty)'}, before {former[name] or '(empty)'}" if before else value
        for name, value in format_settings(settings).items()
        if value != former[name]
    }


def _describe_state(context: CommandContext, state: UpstreamState) -> CommandOutput:
    upstream = state.upstream
    figures = list_figures(context.conn, [upstream.id])[upstream.id]
    counted = counters.get_counters(context.conn, upstream.id)
    names = RULES if upstream.kind == upstreams.SMPP else SIMULATOR_SETTINGS
    formatted = {name: text for name, text in format_settings(upstream.settings).items() if name in names}
    under_way = upstreams.count_messages_under_way(context.conn, upstream)
    waiting = _list_waiting_by_path(context, upstream)
    learned_ids = message_ids.load_id_forms(context.conn, [upstream.id])[upstream.id].learned
    value = {
        **_state_to_dict(state, figures),
        "under_way": under_way,
        "draining": upstream.draining,
        "waiting": [{"upstreams": names, "queued": count} for names, count in waiting],
        "learned_ids": learned_ids,
        "binds": [_bind_to_dict(each) for each in state.binds],
        "health_reason": state.health.reason,
        "health_since": format_timestamp(state.health.since or None),
        "settings": {name: _value_of_setting(upstream.settings, name, text) for name, text in formatted.items()},
        "counters": counted,
    }
    overview: dict[str, object] = {
        "name": upstream.name,
        "kind": upstream.kind,
        "state": _format_state_at_length(context, state),
        "health": _format_health(state.health),
        "default": "yes" if upstream.is_default else "no",
        "queued": figures.waiting.count,
        # Where others could take it, too.
        **{f"queued for {', '.join(names)}": count for names, count in waiting if len(names) > 1},
        "under way": under_way,
        **figures.to_rows(),
        **({"ids in receipts": f"{learned_ids}, as was learned"} if learned_ids else {}),
        **{f"bind {each.number}": _format_bind(each) for each in state.binds},
    }
    blocks: list[dict[str, object]] = [overview, {**formatted}, {**counted}]
    return CommandOutput(value, "\n\n".join(map(format_names_and_values, blocks)))


def _value_of_setting(settings: UpstreamSettings, name: str, text: str) -> object:
    """A number or a flag as such, all else as the options have it."""
    value = getattr(settings, name)
    return value if str(value) == text or RULES[name].is_flag else text


def _list_waiting_by_path(context: CommandContext, upstream: Upstream) -> list[tuple[list[str], int]]:
    """What waits that an upstream may take: the names of its upstreams, in their order, and how many messages."""
    names = upstreams.get_upstream_names(context.conn)
    default_path = (upstream.id,) if upstream.is_default else ()
    counts = waiting_counts.count_waiting_messages_by_path(context.conn).items()
    ways = [(get_path_upstreams(path) or default_path, count) for path, count in counts if not is_held_path(path)]
    return [([names[each] for each in way], count) for way, count in ways if upstream.id in way]


def _bind_to_dict(bind: BindState) -> dict[str, object]:
    return {
        **fields_to_dict(bind, "number", "kind", "state", "since", "error", "status", "host"),
        "since": format_timestamp(bind.since or None),
        "next_attempt": format_timestamp(bind.next_attempt_at or None),
    }


def _format_state(state: UpstreamState) -> str:
    words = [state.state]
    if state.upstream.draining:
        words.append("draining")
    if state.health.state != GOOD:
        words.append(state.health.state)
    return ", ".join(words)


def _format_health(health: UpstreamHealth) -> str:
    since = f"since {format_timestamp(health.since)}" if health.since else ""
    return "  ".join(each for each in (health.state, since, health.reason) if each)


def _format_state_at_length(context: CommandContext, state: UpstreamState) -> str:
    if state.state == binds.PENDING:
        return f"{_format_state(state)}: the server takes the change over"
    if state.binds and not session_records.is_component_alive(context.conn, "smsc"):
        return f"{_format_state(state)} ({_SERVER_STOPPED})"
    return _format_state(state)


def _format_bind(bind: BindState) -> str:
    since = f"since {format_timestamp(bind.since)}" if bind.since else ""
    next_attempt = f"next attempt at {format_timestamp(bind.next_attempt_at)}" if bind.next_attempt_at else ""
    return "  ".join(each for each in (bind.kind, bind.state, since, bind.host, bind.error, next_attempt) if each)
