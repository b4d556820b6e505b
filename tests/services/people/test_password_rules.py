"""What can be a new password."""

import gzip
import secrets
import time
from contextlib import suppress

import pytest

from portal.core import paths
from portal.services.people.password_hashing import MAX_PASSWORD_LENGTH
from portal.services.people.password_rules import (
    InvalidPassword,
    PasswordFrequent,
    PasswordGuessable,
    PasswordTooLong,
    PasswordTooShort,
    check_new_password,
)

NAMES = ("alice.rossi@mail.initech.example", "Acme Logistics", "SMPP Portal")


@pytest.mark.parametrize("password", ["", "1234567890", "password12", "k9$Q2@5%7xZ"])
def test_less_than_twelve_characters_are_too_few(password: str) -> None:
    with pytest.raises(PasswordTooShort):
        check_new_password(password, NAMES)


def test_there_is_a_limit() -> None:
    check_new_password("".join(secrets.token_hex(500)), NAMES)
    with pytest.raises(PasswordTooLong):
        check_new_password("x" * 1001, NAMES)


@pytest.mark.parametrize(
    "password",
    [
        "transformers",
        "TransFormers",
        "iseedeadpeople",
        "password1234",
        "1234password",
        "2026-password-2026",
        "P@$$w0rd2026!",
        "$un5hine-2026",
        "Welcome-2026!!",
        "September2026",
        "Settembre2026",
        "Mercoledì2026",
        "q1w2e3r4t5y6u7",
        "ｐａｓｓｗｏｒｄ１２３４",
        "Ｐ４ｓｓｗ０ｒｄ－２０２６",
        "pass\u200bword\xad1234",
        "correcthorsebatterystaple",
    ],
)
def test_the_most_frequent_ones_and_a_frequent_word_with_digits_are_refused(password: str) -> None:
    with pytest.raises(PasswordFrequent):
        check_new_password(password, ())


@pytest.mark.parametrize(
    "password",
    [
        "xxxxxxxxxxxxxxxx",
        "hahahahahahaha",
        "passwordpassword",
        "password-password",
        "P4ssw0rd-P4ssw0rd",
        "P4ssw0rd-Passw0rd!",
        "ﷺ" * 12,
        "\u200b" * 12,
        "abcdefghijklmnop",
        "zyxwvutsrqpo",
        "x9876543210x",
        "hjkl-qwertz-fghj",
        "1qaz2wsx-3edc4rfv",
    ],
)
def test_rows_and_repetitions_do_not_count(password: str) -> None:
    with pytest.raises(PasswordGuessable):
        check_new_password(password, ())


@pytest.mark.parametrize(
    "password",
    [
        "alice.rossi@mail.initech.example",
        "Alice.Rossi@Mail.Initech.Example!",
        "rossi-alice-2026",
        "AcmeLogistics26",
        "smpp.portal.initech",
        "alice1234alice1234",
        "ａｌｉｃｅ．ｒｏｓｓｉ－２０２６",
        "4l!ce-r0ssi-2026",
    ],
)
def test_names_of_the_person_and_the_installation_do_not_count(password: str) -> None:
    check_new_password("quite another " + password, NAMES)
    with pytest.raises(PasswordGuessable):
        check_new_password(password, NAMES)


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "another long password",
        "my name is really not Alice Rossi",
        "k9$Q2@5%7xZw",
        "più lunga è, meglio è",
        "прекрасный осенний вечер",
        "understudy overstuffed",
        "fa3b-9c1e-77d0-1b2c",
        "\x00" + "correct horse battery",
    ],
)
def test_what_is_long_and_ones_own_is_good(password: str) -> None:
    check_new_password(password, NAMES)


def test_random_ones_of_password_managers_are_good() -> None:
    for _ in range(300):
        check_new_password(secrets.token_urlsafe(15), NAMES)


def test_the_list_holds_what_is_looked_for() -> None:
    comments: list[str] = []
    words: list[str] = []
    for line in gzip.decompress(paths.FREQUENT_PASSWORDS_GZ.read_bytes()).decode().splitlines():
        (comments if line.startswith("# ") or line == "#" else words).append(line)
    assert "# MIT License" in comments
    assert len([each for each in words if len(each) >= 12]) >= 10_000
    assert words == sorted({each.casefold() for each in words})


@pytest.mark.parametrize("sign", ["⒇", "1", "-", "a1", "ﷺ"])
def test_no_password_takes_long(sign: str) -> None:
    """Of the longest ones the first signs alone are looked at, of which one can become many."""
    password = (sign * MAX_PASSWORD_LENGTH)[: MAX_PASSWORD_LENGTH - 1] + "a"

    def measure() -> float:
        began = time.process_time()
        with suppress(InvalidPassword):
            check_new_password(password, NAMES)
        return time.process_time() - began

    assert min(measure() for _ in range(3)) < 0.06
