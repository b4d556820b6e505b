"""Forms: what is typed is read by WTForms, and judged by the services, whose refusals come back to the field."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from flask import request
from flask_wtf import FlaskForm
from werkzeug.datastructures import MultiDict
from wtforms import HiddenField, PasswordField, SelectField, StringField, ValidationError

from portal.core.i18n import N_, gettext
from portal.services.common import idempotency
from portal.services.common.csv_import import InvalidCsvLines
from portal.services.common.errors import NotFound, Refused
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import password_rules
from portal.services.people.password_hashing import HashingBusy

_INVALID_ID = (1 << 63) - 1
_MAX_DIGITS = len(str(_INVALID_ID))


class TranslatedForm(FlaskForm):
    """A form whose labels and choices are written with `N_`, and shown in the reader's language.

    A text that wasn't sent is "", as one that was left empty.
    """

    refused_status = 422
    """The HTTP status of an answer that shows what is wrong with it."""
    bad_lines: Sequence[object] = ()
    """The lines of a file, or of a field, that can't be read."""

    class Meta(FlaskForm.Meta):
        def wrap_formdata(self, form: FlaskForm, formdata: Any) -> Any:
            """What was sent: text alone. `read_upload` reads files; in a text's place one is nothing, as JSON is."""
            if formdata is None or isinstance(formdata, MultiDict):
                return formdata
            return (request.form or None) if form.is_submitted() else None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self:
            field.label.text = gettext(field.label.text)
            # RadioField is a SelectField too. Choices that a view sets afterwards are its own words.
            if isinstance(field, SelectField) and field.choices:
                field.choices = [replace(each, label=gettext(each.label)) for each in field.choices]

    def process(self, *args: Any, **kwargs: Any) -> None:
        super().process(*args, **kwargs)
        for field in self:
            if field.data is None and isinstance(field, StringField | SelectField):
                field.data = ""


class GetForm(TranslatedForm):
    """A form whose answer has an address that can be shared, and the way back leads to it."""

    class Meta:
        csrf = False


class OnceForm(TranslatedForm):
    """A form that does something once, even where it is sent twice: `form` is its idempotency key."""

    # One that was refused has done nothing, so its key is still good.
    form = HiddenField(filters=[lambda key: key or idempotency.new_idempotency_key()])


class NewPasswordForm(TranslatedForm):
    """A password that is chosen, typed twice because nobody sees it."""

    min_length = password_rules.MIN_PASSWORD_LENGTH

    password = PasswordField(N_("New password"))
    repeat = PasswordField(N_("The same password again"))

    def validate_repeat(self, field: PasswordField) -> None:
        if field.data != self.password.data:
            raise ValidationError(gettext("The two passwords differ."))


def read_upload(field: str, max_bytes: int) -> bytes:
    """What this request uploads, without what is more than a byte too much; empty where no file was chosen."""
    upload = request.files.get(field)
    return upload.read(max_bytes + 1) if upload else b""


class InvalidRowId(NotFound, ValueError):
    """A number that nobody's page has written."""


def parse_row_id(text: str) -> int:
    """Read a number that a page has written into an address or a hidden field: an id, or an amount.

    Raises:
        InvalidRowId: SQLite would have no room for it, or for the number after it.
    """
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else _INVALID_ID
    if number >= _INVALID_ID:
        raise InvalidRowId()
    return number


def add_form_error(form: TranslatedForm, error: Refused, **names: str) -> None:
    """Put a service's error on the form, in the reader's language.

    At the field that it names; where the form has no such field, over the form (`form.form_errors`).

    Args:
        names: the form's names of fields where they aren't the service's: `address="sender"`.
    """
    message = error.localized()
    name = names.get(error.field, error.field)
    if name in form:
        field = form[name]
        field.errors = [*field.errors, message]
    else:
        form.form_errors.append(message)
    if isinstance(error, TooManyAttempts):
        form.refused_status = 429
    if isinstance(error, HashingBusy):
        form.refused_status = 503
    if isinstance(error, InvalidCsvLines):
        form.bad_lines = error.summarize_lines()


class refusals_on:
    """What refuses inside the block is put on the form (see `add_form_error`), and what follows the block answers it:

    with refusals_on(form, amount="below"):
        alerts.set_alert_rule(...)
        return ...
    return render_page(..., form=form)
    """

    def __init__(self, form: TranslatedForm, **names: str) -> None:
        self._form, self._names = form, names

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> bool:
        if isinstance(error, Refused):
            add_form_error(self._form, error, **self._names)
        return isinstance(error, Refused)


def get_form_status(values: Mapping[str, Any]) -> int:
    """The HTTP status of an answer with these variables: a refused form's, if one of them is, or else 200."""
    forms = [each for each in values.values() if isinstance(each, TranslatedForm)]
    return next((each.refused_status for each in forms if each.errors), 200)
