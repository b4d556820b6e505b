"""No text in a CSV file is a formula, however a spreadsheet takes the file apart."""

import ast
import csv
import io
import time
from collections.abc import Iterator
from itertools import product

import pytest

from portal.services.common.csv_export import format_csv
from tests.support import ROOT

SIGNS = "=+-@＝＋－＠"
SEPARATORS = (";", ",", "\t", "|", "؛", ",;\t")  # the last one is LibreOffice's default


def take_apart(text: str, separators: str, *, with_quotes: bool) -> Iterator[str]:
    """The cells of a file, as spreadsheets see them: what stands behind a quoted part belongs to its cell."""
    cell, is_quoted, at = "", False, 0
    while at < len(text):
        here, at = text[at], at + 1
        if here == '"' and is_quoted and text[at : at + 1] == '"':
            cell, at = cell + here, at + 1
        elif here == '"' and with_quotes and (is_quoted or not cell):
            is_quoted = not is_quoted
        elif not is_quoted and here in f"{separators}\r\n":
            yield cell
            cell = ""
        else:
            cell += here
    yield cell


def find_formulas(text: str) -> list[str]:
    return [
        cell
        for separators in SEPARATORS
        for with_quotes in (True, False)
        for cell in take_apart(text, separators, with_quotes=with_quotes)
        if cell.lstrip(" \xa0\0\t\v\f\x1c\x7f").startswith(tuple(SIGNS))
    ]


@pytest.mark.parametrize("delimiter", [";", ","])
def test_no_cell_is_a_formula_whichever_separator_is_picked(delimiter: str) -> None:
    for length in (0, 1, 2, 3):
        for each in product('=a,;\t\n\r" ', repeat=length):
            text = f"{''.join(each)}=1"
            assert find_formulas(format_csv([[1, text, text], [text, "x", text]], delimiter=delimiter)) == [], text


@pytest.mark.parametrize("sign", SIGNS)
def test_each_sign_is_known(sign: str) -> None:
    for text, safe in [
        (f"{sign}1+1", f"'{sign}1+1"),
        (f"hi,{sign}1+1", f"hi,'{sign}1+1"),
        (f"hi;\xa0{sign}A1,|{sign}A2", f"hi;'\xa0{sign}A1,|'{sign}A2"),
        (f"\u200b{sign}1,\xad\ufeff{sign}1", f"'\u200b{sign}1,'\xad\ufeff{sign}1"),
        (f"\0{sign}1", f"\0'{sign}1"),
        (f"a\x85{sign}1\u2028 {sign}2\u2029{sign}3", f"a\x85'{sign}1\u2028' {sign}2\u2029'{sign}3"),
    ]:
        assert next(csv.reader(io.StringIO(format_csv([[text]])), delimiter=";")) == [safe]


def test_the_eye_of_these_tests_sees_formulas() -> None:
    for line in ('1;"hi,=1+1"', '1;"hi,""=1+1,"', "hi\t-1", "1;＝1", '"a\n=1"'):
        assert find_formulas(line), line


def test_what_is_no_formula_stays_as_it_is() -> None:
    values = [-5, -0.5, None, "a=b", "a - b", "x@y.example", "it's, well", "1,5", "", 'say "hi"', "two\nlines"]
    (line,) = csv.reader(io.StringIO(format_csv([values])), delimiter=";")
    assert line == [str("" if each is None else each) for each in values]


def test_no_text_takes_long() -> None:
    """The longest text of a message, 255 parts; a search that looks at each pair of places takes a second or more."""
    for piece in (", ", "\t", '"', " ", "\u2028"):
        began = time.process_time()
        format_csv([["," + piece * (39_000 // len(piece)) + "x"]])
        assert time.process_time() - began < 0.3, piece


def test_there_is_no_other_writer() -> None:
    """Each download, and each command of the shell that prints CSV, is written by `format_csv`."""
    writers = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "portal").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in ("csv.writer", "csv.DictWriter"))
        or (isinstance(node, ast.ImportFrom) and node.module == "csv")
    }
    assert writers == {"portal/services/common/csv_export.py"}
