"""What can be a new password: long enough, none that is tried first, and more than names, rows and repetitions.

Those that people have stay good, whatever they are. No kinds of characters are asked for (NIST SP 800-63B-4, 3.1.1.2).
"""

import gzip
import re
import unicodedata
from collections.abc import Iterable, Sequence

from portal.core import paths
from portal.core.i18n import N_
from portal.services.common.errors import Refused
from portal.services.people.password_hashing import MAX_PASSWORD_LENGTH
from portal.services.people.users import User

MIN_PASSWORD_LENGTH = 12

# What follows in one of them, in either direction, is typed without thinking: digits, the alphabet, and the keys of the
# usual keyboards side by side and one below the other.
_ROWS = (
    "01234567890",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
)
_ROWS_BOTH_WAYS = " ".join((*_ROWS, *(each[::-1] for each in _ROWS)))
# So many in a row, or repeated, are one thing to who guesses.
_GROUP = 4
# Enough of a long password to see that it has what is needed.
_LOOKED_AT = 200
_MIN_NAME_LENGTH = 3
# "P@ssw0rd" is read as "password".
_LETTERS_BY_SIGN = str.maketrans("@4310!$57", "aaeloisst")
_DIGITS_AND_SIGNS = r"[\W\d_]+"


class InvalidPassword(Refused, field="password"):
    """It can't be a new password."""


class PasswordTooShort(InvalidPassword):
    sentence = N_("A password has at least %(length)s characters. Several words in a row are easy to remember.")


class PasswordTooLong(InvalidPassword):
    sentence = N_("A password has at most %(length)s characters.")


class PasswordFrequent(InvalidPassword):
    sentence = N_(
        "This is one of the passwords that are tried first, or one with digits or signs around it. Several words in a"
        " row are easy to remember, and hard to guess."
    )


class PasswordGuessable(InvalidPassword):
    sentence = N_(
        "This is too easy to guess. It needs at least %(length)s characters besides your e-mail address, the names of"
        " your company and of this portal, repetitions, and rows such as 1234 or qwerty."
    )


def list_known_names(user: User, installation: Sequence[str]) -> tuple[str, ...]:
    """What others know of a person: e-mail address, customer, and the installation's names."""
    return user.email, user.customer_name or "", *installation


def check_new_password(password: str, names: Iterable[str]) -> None:
    """Refuse what can't be a new password.

    Args:
        names: see `list_known_names`; their words don't count.

    Raises:
        InvalidPassword
    """
    if len(password) < MIN_PASSWORD_LENGTH:
        raise PasswordTooShort(length=MIN_PASSWORD_LENGTH)
    if len(password) > MAX_PASSWORD_LENGTH:
        raise PasswordTooLong(length=MAX_PASSWORD_LENGTH)
    text = _fold(password)[:_LOOKED_AT]
    if _is_frequent(text):
        raise PasswordFrequent()
    known = [*map(_fold, names)]
    # As it was typed, too: one character can become many.
    for form in (password, text, text.translate(_LETTERS_BY_SIGN)):
        if _count_characters(_remove_names(form[:_LOOKED_AT], known)) < MIN_PASSWORD_LENGTH:
            raise PasswordGuessable(length=MIN_PASSWORD_LENGTH)


def _fold(text: str) -> str:
    """Small letters, and plain ones where they are full-width, for example, without those that nobody sees."""
    # Unicode's category Cf: zero-width spaces, soft hyphens, byte order marks.
    return "".join(
        each for each in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(each) != "Cf"
    )


def _is_frequent(text: str) -> bool:
    """Whether it is a frequent password, with letters as signs or not, or one with digits and signs around it."""
    # It is read each time, in some milliseconds: few choose a password, and all would have it in memory.
    frequent_passwords = gzip.decompress(paths.FREQUENT_PASSWORDS_GZ.read_bytes()).decode()
    without_start, without_end = re.sub(f"^{_DIGITS_AND_SIGNS}", "", text), re.sub(f"{_DIGITS_AND_SIGNS}$", "", text)
    forms = (text, without_start, without_end, re.sub(f"{_DIGITS_AND_SIGNS}$", "", without_start))
    return any(
        f"\n{each}\n" in frequent_passwords for form in forms for each in (form, form.translate(_LETTERS_BY_SIGN))
    )


def _remove_names(text: str, names: Iterable[str]) -> str:
    """What is left without the names, and without their words, but for the last one of an address alone: "com"."""
    words: set[str] = set()
    for name in names:
        words.update((name, *name.split("@"), *re.split(r"[\W_]+", re.sub(r"\.\w+$", "", name))))
    for word in sorted(words, key=len, reverse=True):
        if len(word) >= _MIN_NAME_LENGTH:
            text = text.replace(word, "")
    return text


def _count_characters(text: str) -> int:
    """How many characters count: none that goes on with a row, and none of a repetition."""
    guessed: set[int] = set()
    for end in range(_GROUP, len(text) + 1):
        group = text[end - _GROUP : end]
        if group in text[: end - 1]:
            guessed.update(range(end - _GROUP, end))
        elif group in _ROWS_BOTH_WAYS:
            guessed.add(end - 1)
    return len(text) - len(guessed)
