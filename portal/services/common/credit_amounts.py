"""Amounts of credits as people write them. Inside the program they are integers: thousandths of a credit."""

from babel.numbers import NumberFormatError

from portal.core import i18n
from portal.core.i18n import N_
from portal.services.common.errors import Refused

_DECIMALS = 3
THOUSANDTHS = 1000
_MAX_AMOUNT = 10**12 * THOUSANDTHS
_MAX_DIGITS = 20
# Word processors and phones make a true minus (U+2212) of a hyphen.
_MINUS_SIGNS = ("-", "\u2212")
_SIGNS = ("+", *_MINUS_SIGNS)


class InvalidAmount(Refused, field="amount"):
    sentence = N_("“%(text)s” isn't an amount of credits. Examples: 100, 0.5.")


class InvalidAmountChange(Refused, field="amount"):
    sentence = N_("“%(text)s” isn't a change of credits. Examples: 100, -0.5.")


class AmbiguousAmount(InvalidAmount):
    sentence = N_("“%(text)s” isn't how numbers are written in this language. Write %(meant)s.")


def parse_amount(text: str) -> int:
    """Read a positive amount as the language in use writes it: "0.5", in Italian "0,5", is 500 thousandths.

    Raises:
        AmbiguousAmount: its separators are another language's, "1.5" in Italian.
        InvalidAmount: not a number, not positive, or finer than a thousandth.
    """
    amount = _parse_thousandths(text.strip())
    if amount is None or amount <= 0:
        raise InvalidAmount(text=text.strip())
    return amount


def parse_amount_or_zero(text: str) -> int:
    """Read a positive amount, or 0 where that means none: no threshold, nothing granted.

    Raises: as `parse_amount`.
    """
    return 0 if text.strip() == "0" else parse_amount(text)


def parse_amount_change(text: str) -> int:
    """Read an amount with a sign or without, in the language in use: "-1,234.5" is -1234500, in Italian "-1.234,5" is.

    Raises:
        AmbiguousAmount: its separators are another language's.
        InvalidAmountChange: not a number, nothing, or finer than a thousandth.
    """
    text = text.strip()
    amount = _parse_thousandths(text[1:].lstrip() if text.startswith(_SIGNS) else text)
    if not amount or amount < 0:
        raise InvalidAmountChange(text=text)
    return -amount if text.startswith(_MINUS_SIGNS) else amount


def _parse_thousandths(text: str) -> int | None:
    """A number as the language in use writes it; None where it is none, too large, or finer than a thousandth.

    Raises:
        AmbiguousAmount
    """
    try:
        amount = parse_scaled_number(text, _DECIMALS)
    except NumberFormatError as error:
        readable = [each for each in error.suggestions or () if _parse_thousandths(each) is not None]
        if readable:
            raise AmbiguousAmount(text=text, meant=i18n.format_or_list(readable)) from None
        return None
    return amount if amount is not None and abs(amount) <= _MAX_AMOUNT else None


def parse_scaled_number(text: str, decimals: int) -> int | None:
    """A number as the language in use writes it, times ten to the power of `decimals`; None where that is no integer.

    Raises:
        NumberFormatError: its separators are another language's, or it is no number.
    """
    try:
        # An amount has few digits; Decimal would round many without a word.
        number = i18n.parse_number(text if len(text) <= _MAX_DIGITS else "").scaleb(decimals)
    except ArithmeticError:
        return None
    return int(number) if number.is_finite() and number == int(number) else None


def credits_to_json_number(thousandths: int) -> int | float:
    """An amount as a JSON number: 8412500 is 8412.5, 500000 is 500."""
    whole, remainder = divmod(thousandths, THOUSANDTHS)
    return thousandths / THOUSANDTHS if remainder else whole
