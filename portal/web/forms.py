"""Forms: what is typed is read by WTForms, and judged by the services, whose refusals come back to the field."""

from flask_wtf import FlaskForm

from portal.services.errors import Refused


def attach(form: FlaskForm, refusal: Refused) -> None:
    """Put a service's refusal on the form, in the reader's language.

    At the field that it names; where the form has no such field, over the form (`form.form_errors`).
    """
    sentence = refusal.localized()
    if refusal.field in form:
        field = form[refusal.field]
        field.errors = [*field.errors, sentence]
    else:
        form.form_errors.append(sentence)
