"""`upstream trace`: the PDUs of one upstream, as they were traced, and as they come."""

import json
import time
from collections.abc import Sequence

from portal.cli.shell import CommandContext, CommandOutput, format_timestamp
from portal.core.clock import now_ms
from portal.core.i18n import format_iso8601
from portal.services.upstreams import traces
from portal.services.upstreams.traces import TracedPdu
from portal.services.upstreams.upstreams import Upstream

_POLL_SECONDS = 0.25
# After its end the server may still have some that are not on disk.
_LAST_PDUS_MS = 1_000


def describe_trace(context: CommandContext, upstream: Upstream, limit: int) -> CommandOutput:
    """The last PDUs that were traced, oldest first, and until when."""
    trace = traces.get_trace(context.conn, upstream.id)
    pdus = traces.list_pdus(context.conn, upstream.id, limit=limit)[::-1]
    value = {
        "started_at": format_timestamp(trace.started_at if trace else None),
        "ends_at": format_timestamp(trace.ends_at if trace else None),
        "left_out": trace.left_out if trace else 0,
        "pdus": [_pdu_to_dict(each) for each in pdus],
    }
    return CommandOutput(value, "\n".join([*map(_format_pdu, pdus), _describe_end(context, upstream)]))


def follow_trace(context: CommandContext, upstream: Upstream, *, as_json: bool) -> CommandOutput:
    """Print PDUs as they come, until the trace has ended: a line each, or a JSON value."""
    last_id = max((each.id for each in traces.list_pdus(context.conn, upstream.id, limit=1)), default=0)
    is_over = False
    while not is_over:
        trace = traces.get_trace(context.conn, upstream.id)
        is_over = trace is None or not trace.is_running(now_ms() - _LAST_PDUS_MS)
        while pdus := _list_next(context, upstream, last_id):
            for each in pdus:
                print(json.dumps(_pdu_to_dict(each)) if as_json else _format_pdu(each), flush=True)
            last_id = pdus[-1].id
        if not is_over:
            time.sleep(_POLL_SECONDS)
    value = describe_trace(context, upstream, 0).value
    return CommandOutput(value, _describe_end(context, upstream))


def _list_next(context: CommandContext, upstream: Upstream, after: int) -> Sequence[TracedPdu]:
    """Oldest first."""
    return traces.list_pdus(context.conn, upstream.id, after=after, limit=1_000)[::-1]


def _describe_end(context: CommandContext, upstream: Upstream) -> str:
    trace = traces.get_trace(context.conn, upstream.id)
    if trace is None:
        command = context.config.format_command(f"upstream trace {upstream.name} --minutes 5")
        return f"Nothing of {upstream.name} was traced. Begin: {command}"
    left_out = f" PDUs that came too fast to be kept: {trace.left_out}." if trace.left_out else ""
    words = "is traced until" if trace.is_running(now_ms()) else "was traced until"
    return f"{upstream.name} {words} {format_timestamp(trace.ends_at)}.{left_out}"


def _pdu_to_dict(pdu: TracedPdu) -> dict[str, object]:
    return {
        "at": _format_time(pdu.at),
        "direction": "out" if pdu.is_sent else "in",
        "bind": pdu.bind,
        "command": pdu.command,
        "sequence_number": pdu.sequence_number,
        "command_status": pdu.status,
        "fields": pdu.fields,
    }


def _format_time(at: int) -> str:
    """With milliseconds."""
    return format_iso8601(at).replace("Z", f".{at % 1000:03d}Z")


def _format_pdu(pdu: TracedPdu) -> str:
    arrow = "->" if pdu.is_sent else "<-"
    # A carrier decides what they hold.
    fields = [f"{name}={value if value.isprintable() else ascii(value)}" for name, value in pdu.fields.items()]
    words = [_format_time(pdu.at), arrow, f"bind={pdu.bind}", pdu.command, f"seq={pdu.sequence_number}", pdu.status]
    return " ".join(filter(None, [*words, *fields]))
