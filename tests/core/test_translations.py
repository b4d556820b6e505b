"""Both languages are whole: each sentence has its translation, with the same placeholders."""

import re
from collections.abc import Iterator, Sequence
from functools import cache

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po

from portal.core import i18n, paths

KEYWORDS = {"_": None, "N_": None, "gettext": None, "ngettext": (1, 2), "Check": (1,)}
TRANSLATED = [language for language in i18n.LANGUAGES if language != i18n.DEFAULT_LANGUAGE]
PLACEHOLDER = re.compile(r"%\([a-z_0-9]+\)s")


@cache
def _extract_all() -> list[tuple[str, str | tuple[str, ...]]]:
    """Each sentence with the file that has it. To look at all files takes seconds, so it is done once."""
    with (paths.ROOT / "babel.cfg").open() as file:
        methods, options = parse_mapping_cfg(file)
    extracted = extract_from_dir(str(paths.ROOT), methods, options, keywords=KEYWORDS)
    return [(file, message) for file, _, message, _, _ in extracted if message]


def sentences(within: str = "") -> set[str | tuple[str, ...]]:
    """Those of files whose path begins so."""
    return {message for file, message in _extract_all() if file.startswith(within)}


def _as_key(text: str | Sequence[str]) -> str | tuple[str, ...]:
    return text if isinstance(text, str) else tuple(text)


def translations(language: str) -> Iterator[tuple[str | tuple[str, ...], str | tuple[str, ...], bool]]:
    with (paths.TRANSLATIONS / language / "LC_MESSAGES" / "messages.po").open("rb") as file:
        for message in read_po(file, locale=language):
            if message.id:
                yield _as_key(message.id), _as_key(message.string or ""), message.fuzzy


def _forms(text: str | tuple[str, ...]) -> list[str]:
    """A sentence's one form, or its singular and plural."""
    return [text] if isinstance(text, str) else list(text)


@pytest.mark.slow
@pytest.mark.parametrize("language", TRANSLATED)
def test_no_sentence_is_missing(language: str) -> None:
    translated = {key for key, text, fuzzy in translations(language) if not fuzzy and all(_forms(text))}
    missing = {each for each in sentences() if each not in translated}
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("language", TRANSLATED)
def test_no_translation_is_left_over(language: str) -> None:
    assert {key for key, _, _ in translations(language)} <= sentences()


@pytest.mark.parametrize("language", TRANSLATED)
def test_placeholders_survive_translation(language: str) -> None:
    for key, text, _ in translations(language):
        for original, translated in zip(_forms(key), _forms(text), strict=True):
            assert set(PLACEHOLDER.findall(translated)) == set(PLACEHOLDER.findall(original)), translated


def test_italian_uses_the_labels_that_users_of_the_model_know() -> None:
    labels = {
        "General information": "Informazioni generali",
        "Service status": "Stato dei servizi",
        "SystemID": "SystemID",
        "Windowing": "Windowing",
        "Permitted throughput": "Velocità autorizzata",
        "Generate a new password": "Genera una nuova password",
        "Send": "Inviare",
        "Exit": "Annullare",
        "Options": "Opzioni",
        "SMPP settings": "Impostazioni SMPP",
        "Authorised IPs": "IP autorizzati",
        "Add an IP (%(used)s/%(limit)s)": "Aggiungi un IP (%(used)s/%(limit)s)",
        "Senders": "Mittenti",
        "Credits": "Crediti",
        "History": "Storico",
    }
    catalogue = i18n.load_catalogue("it")
    assert {english: catalogue.gettext(english) for english in labels} == labels


@pytest.mark.slow
def test_pages_about_the_login_tell_italians_what_to_do_as_one_person() -> None:
    """“Inserisci il codice”, not “Inserire il codice”."""
    folders = (
        "templates/people/",
        "templates/admin/audit.html",
        "portal/web/people/",
        "portal/web/core/",
        "portal/services/people/",
    )
    about_login = set().union(*map(sentences, folders))
    # At the beginning of a sentence, or of a part of it.
    infinitive = re.compile(r"(?:^|[.:;] |, poi )\w+(?:[aei]re|[aei]r[lt][aeio])\b")
    texts = [text for key, text, _ in translations("it") if key in about_login]
    assert texts
    assert not [each for text in texts for each in _forms(text) if infinitive.search(each)]
