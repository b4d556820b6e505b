"""What the crawler sends: values that are wrong in every way, and for each field one that is right.

Of values that go the same way through the code one is sent, and all of them with CRAWLER_VALUES=all (`make test-all`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

# What is planted: where it stands in a tag, an attribute or a script, it has come there unescaped. Lower case, because
# parsers write tags and attributes so.
MARKER = "xqzpt"
# A header that a line break in a value would add.
HEADER = "X-Xqzpt"
SENDS_ALL = os.environ.get("CRAWLER_VALUES") == "all"


@dataclass(frozen=True)
class Value:
    """`octets` are sent for a field: None leaves the field out; `times`: how often it is sent."""

    kind: str
    name: str
    octets: bytes | None
    times: int = 1
    as_file: bool = False


def _texts(kind: str, *texts: str | bytes, more: Sequence[str] = ()) -> list[Value]:
    """Args:
    more: what is sent where all values are.
    """
    sent = [*texts, *(more if SENDS_ALL else ())]
    return [Value(kind, ascii(each)[:40], each.encode() if isinstance(each, str) else each) for each in sent]


# Short ones, which labels take.
SCRIPTS = _texts(
    "script",
    f"\"'><script>{MARKER}</script>",
    f"{{{{7*7}}}}{MARKER}${{7*7}}{MARKER}",
    f"//{MARKER}.example/",
    more=(
        f"</textarea></script>--><{MARKER}>",
        f"'-alert({MARKER})-'\" onerror={MARKER} %(x)s{{0}}%n<%=7*7%>{MARKER}",
        f"javascript:{MARKER}",
    ),
)
SQL = _texts("SQL", "' OR 1=1 --", "%", more=('"; DROP TABLE users; --', "_"))
WRONG_TYPES = _texts(
    "wrong type",
    "text",
    "1" + 30 * "0",
    "-1",
    "NaN",
    more=("1e999", "9223372036854775808", '[{"a":[null]}]'),
)
TRICKS = _texts(
    "Unicode",
    "a\0b",
    b"a\xed\xa0\x80b\xff",
    "²٣",
    f"a\r\n{HEADER}: 1\r\n\r\n",
    more=(
        "\u202egnp.exe\u2028",
        "e" + 200 * "\u0301",
        "１２３",
        "＝1＋1",
        "\U0001f600\U00010000",
        "İıſﬃ",
    ),
)
OVER_LONG = [Value("over-long", "100,000 digits", 100_000 * b"9")]
SHAPES = [
    Value("empty", "empty", b""),
    Value("missing", "missing", None),
    Value("repeated", "twice", b"1", times=2),
    Value("wrong type", "a file", b"%PDF-", as_file=True),
]
ALL = [*SHAPES, *OVER_LONG, *WRONG_TYPES, *TRICKS, *SCRIPTS, *SQL]
# For queries and addresses, and for the fields that each form has: some of each kind.
SOME = [SHAPES[0], *OVER_LONG, *WRONG_TYPES[1:3], *TRICKS[:3], SCRIPTS[0], *SCRIPTS[2:], SQL[1]]
# For operators, who do no harm on purpose, and for addresses that are posted to: one of each kind.
FEW = SOME if SENDS_ALL else [*OVER_LONG, WRONG_TYPES[1], TRICKS[1], SCRIPTS[0], SQL[1]]
OF_OPERATORS = ALL if SENDS_ALL else [*SHAPES[:2], *FEW]
PLANTED = SCRIPTS if SENDS_ALL else SCRIPTS[:2]
FILES = [
    *(
        Value("file", name, content, as_file=True)
        for name, content in (
            ("empty", b""),
            ("no text", b"\xff\xd8\xff\0"),
            ("script", f"<script>{MARKER}</script>".encode()),
        )
    ),
    *SHAPES[:3],
    Value("wrong type", "text in place of a file", b"text"),
    *(replace(each, as_file=True) for each in (*OVER_LONG, *TRICKS, *SCRIPTS, *SQL)),
]
FILE_NAMES = [f'"><script>{MARKER}</script>.csv', "../../../etc/passwd", "a\\..\\b", "\0", 3000 * "n" + ".pdf"]
# For fields of JSON.
JSON: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    float("nan"),
    [],
    [None],
    {},
    {"a": []},
    "",
    " ",
    50_000 * "é",
    "\ud800",
    "\0",
    MARKER,
    "' OR 1=1",
]
