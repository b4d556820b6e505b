"""Forms: what is typed is read by WTForms, and judged by the services, whose refusals come back to the field."""

from dataclasses import replace
from typing import Any

from flask_wtf import FlaskForm
from wtforms import PasswordField, SelectField, ValidationError

from portal.core.i18n import N_, gettext
from portal.services.common.errors import Refused

_INVALID_ID = (1 << 63) - 1
_MAX_DIGITS = len(str(_INVALID_ID))


class TranslatedForm(FlaskForm):
    """A form whose labels and choices are written with `N_`, and shown in the reader's language."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self:
            field.label.text = gettext(field.label.text)
            # RadioField is a SelectField too. Choices that a view sets afterwards are its own words.
            if isinstance(field, SelectField) and field.choices:
                field.choices = [replace(each, label=gettext(each.label)) for each in field.choices]


class NewPasswordForm(TranslatedForm):
    """A password that is chosen, typed twice because nobody sees it."""

    password = PasswordField(N_("New password"))
    repeat = PasswordField(N_("The same password again"))

    def validate_repeat(self, field: PasswordField) -> None:
        if field.data != self.password.data:
            raise ValidationError(gettext("The two passwords differ."))


def parse_row_id(text: str) -> int:
    """Read a number that a page has written into an address or a hidden field: an id, or an amount.

    Raises:
        ValueError: nobody's page has written this; SQLite would have no room for it, or for the number after it.
    """
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else _INVALID_ID
    if number >= _INVALID_ID:
        raise ValueError(text)
    return number


def add_form_error(form: FlaskForm, error: Refused, **names: str) -> None:
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
