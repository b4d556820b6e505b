"""The form of an upstream, made from what is declared of its settings, in the order of carriers' letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wtforms import BooleanField, Field, HiddenField, PasswordField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.i18n import N_, _, gettext
from portal.services.upstreams import upstreams
from portal.services.upstreams.setting_labels import get_setting_label
from portal.services.upstreams.settings import (
    DEFAULTS,
    GROUPS,
    RULES,
    SIMULATOR_SETTINGS,
    UpstreamSettings,
    format_setting,
    format_settings,
)
from portal.services.upstreams.upstreams import SIMULATOR, SMPP, Upstream
from portal.web.core.forms import OnceForm

_GROUP_LABELS = {
    "connection": N_("Connection"),
    "bind": N_("Bind"),
    "limits": N_("Limits"),
    "text": N_("Text"),
    "receipts": N_("Receipts"),
    "inbound": N_("From handsets"),
}
# What most letters have. The others are folded, as long as nothing is set of them.
_USUAL = frozenset(
    "host port tls system_id password system_type bind binds window throughput charset long_texts message_ids refund"
    " inbound_country".split()
)


@dataclass(frozen=True, slots=True)
class FormGroup:
    """The fields of a group: those that most letters have, and the others, which are folded unless `is_open`."""

    label: str
    usual: Sequence[tuple[Field, str]]
    others: Sequence[tuple[Field, str]]
    is_open: bool


class UpstreamForm(OnceForm):
    """What is set of an upstream; each setting has a field of its name. `version`: what its reader has seen."""

    version = HiddenField()
    name = StringField(N_("Name"))
    kind = SelectField(
        N_("Kind"),
        choices=[
            SelectChoice(SMPP, N_("A carrier's SMSC")),
            SelectChoice(SIMULATOR, N_("A simulator, which sends nothing")),
        ],
        default=SMPP,
    )
    password = PasswordField(N_("Password"))

    def read_settings(self, settings: UpstreamSettings, kind: str) -> dict[str, Any]:
        """The settings that differ from these, as they were typed; those that this kind of upstream has."""
        before = format_settings(settings)
        names = SIMULATOR_SETTINGS if kind == SIMULATOR else RULES
        typed = {name: _read(self[name]) for name in names}
        return {name: value for name, value in typed.items() if _format(name, value) != before[name]}

    def list_groups(self, kind: str) -> list[FormGroup]:
        """The fields in their groups, each with a sentence; those that this kind of upstream has."""
        fields = [self[name] for name in _ORDER if name in RULES or name == "password"]
        shown = [each for each in fields if kind == SMPP or each.name in SIMULATOR_SETTINGS]
        groups = []
        for group in GROUPS:
            of_it = [each for each in shown if _group_of(each.name) == group]
            others = [each for each in of_it if each.name not in _USUAL]
            is_open = any(each.errors or _differs(each) for each in others)
            usual = [(each, _hint(each)) for each in of_it if each.name in _USUAL]
            if of_it:
                label = gettext(_GROUP_LABELS[group])
                groups.append(FormGroup(label, usual, [(each, _hint(each)) for each in others], is_open))
        return groups


def _build_field(name: str) -> Any:
    rule = RULES[name]
    # TranslatedForm translates labels; these are translated when they are asked for.
    if rule.is_flag:
        return BooleanField(name, default=bool(getattr(DEFAULTS, name)))
    default = format_setting(name, getattr(DEFAULTS, name))
    if rule.words and rule.low is None:
        return SelectField(name, choices=[SelectChoice(each, each) for each in rule.words], default=default)
    return StringField(name, default=default)


for _name in RULES:
    setattr(UpstreamForm, _name, _build_field(_name))
_ORDER = [each for name in RULES for each in ((name, "password") if name == "system_id" else (name,))]


def fill_form(upstream: Upstream) -> UpstreamForm:
    """The form as it is sent, or, where it isn't, with what is set of an upstream."""
    stored = format_settings(upstream.settings)
    values = {name: getattr(upstream.settings, name) if RULES[name].is_flag else text for name, text in stored.items()}
    return label_form(UpstreamForm(data={"name": upstream.name, "version": str(upstream.version), **values}))


def label_form(form: UpstreamForm) -> UpstreamForm:
    """Put the labels on the fields, in the reader's language."""
    for name in RULES:
        form[name].label.text = get_setting_label(name)
    return form


def describe_differences(form: UpstreamForm, upstream: Upstream) -> list[str]:
    """What is set now, where the form has something else."""
    stored = format_settings(upstream.settings)
    differing = form.read_settings(upstream.settings, upstream.kind)
    described = [f"{get_setting_label(each)}: {stored[each] or _('(empty)')}" for each in RULES if each in differing]
    return described + ([f"{gettext('Name')}: {upstream.name}"] if form.name.data != upstream.name else [])


def _read(field: Field) -> object:
    return bool(field.data) if isinstance(field, BooleanField) else str(field.data).strip()


def _format(name: str, value: object) -> str:
    return format_setting(name, value) if isinstance(value, bool) else str(value)


def _differs(field: Field) -> bool:
    return _format(field.name, _read(field)) != format_setting(field.name, getattr(DEFAULTS, field.name))


def _group_of(name: str) -> str:
    return RULES["system_id" if name == "password" else name].group


def _hint(field: Field) -> str:
    if field.name == "password":
        return _(
            "At most %(limit)s characters. It is kept sealed, and never shown.", limit=upstreams.MAX_PASSWORD_LENGTH
        )
    help = gettext(RULES[field.name].help)
    sentence = f"{help[0].upper()}{help[1:]}."
    default = format_setting(field.name, getattr(DEFAULTS, field.name))
    if RULES[field.name].is_flag or not default:
        return sentence
    return f"{sentence} " + _("Usual: %(value)s.", value=default)
