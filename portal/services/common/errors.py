"""Refusals: a rule doesn't allow what somebody asked for, and its sentence tells them why."""

from typing import Any, TypeVar

from portal.core.i18n import gettext

_T = TypeVar("_T")


class Refused(Exception):
    """A rule doesn't allow this.

    Each rule has a subclass with its `sentence`, an English message that is also the key of its translation, and, where
    one input is to blame, the `field` that it belongs to: `class InvalidAmount(Refused, field="amount")`.
    """

    sentence = "This isn't possible."
    field = ""

    def __init_subclass__(cls, *, field: str = "") -> None:
        super().__init_subclass__()
        cls.field = field or cls.field

    def __init__(self, *, field: str = "", **params: object) -> None:
        """Args: `field`: where it is another one than the class's; `params`: what the sentence names."""
        super().__init__()
        self.field = field or self.field
        self.params: dict[str, Any] = params

    def __str__(self) -> str:
        return self.sentence % self.params

    def localized(self) -> str:
        """The sentence in the language in use."""
        translated = gettext(self.sentence)
        return translated % self.params


class NotFound(Refused):
    """What an id or a name names isn't there. A page whose address has it answers 404."""


def parse_whole_number(text: str, invalid: Refused) -> int:
    """A whole number as it was typed; raises `invalid` where it is none."""
    try:
        return int(text)
    except ValueError:
        raise invalid from None


def require_found(found: _T | None, missing: Refused) -> _T:
    """What was found, such as a row; raises `missing` where that is None."""
    if found is None:
        raise missing
    return found
