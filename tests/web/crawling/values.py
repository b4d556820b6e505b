"""What the crawler sends: values that are wrong in every way, and for each field one that is right."""

from dataclasses import dataclass, replace
from typing import Any

# What is planted: where it stands in a tag, an attribute or a script, it has come there unescaped. Lower case, because
# parsers write tags and attributes so.
MARKER = "xqzpt"
# A header that a line break in a value would add.
HEADER = "X-Xqzpt"


@dataclass(frozen=True)
class Value:
    """`octets` are sent for a field: None leaves the field out; `times`: how often it is sent."""

    kind: str
    name: str
    octets: bytes | None
    times: int = 1
    as_file: bool = False


def _texts(kind: str, *texts: str | bytes) -> list[Value]:
    return [Value(kind, ascii(each)[:40], each.encode() if isinstance(each, str) else each) for each in texts]


# Short ones, which labels take.
SCRIPTS = _texts(
    "script",
    f"\"'><script>{MARKER}</script>",
    f"</textarea></script>--><{MARKER}>",
    f"{{{{7*7}}}}{MARKER}${{7*7}}{MARKER}",
    f"'-alert({MARKER})-'\" onerror={MARKER} %(x)s{{0}}%n<%=7*7%>{MARKER}",
    f"javascript:{MARKER}",
    f"//{MARKER}.example/",
)
SQL = _texts("SQL", "' OR 1=1 --", '"; DROP TABLE users; --', "%", "_")
WRONG_TYPES = _texts(
    "wrong type", "text", "1" + 30 * "0", "-1", "1e999", "NaN", "9223372036854775808", '[{"a":[null]}]'
)
TRICKS = _texts(
    "Unicode",
    "a\0b",
    b"a\xed\xa0\x80b\xff",
    "\u202egnp.exe\u2028",
    "e" + 200 * "\u0301",
    "１２３",
    "＝1＋1",
    "\U0001f600\U00010000",
    "İıſﬃ",
    "²٣",
    f"a\r\n{HEADER}: 1\r\n\r\n",
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
SOME = [SHAPES[0], SHAPES[2], *OVER_LONG, *WRONG_TYPES[:3], *TRICKS[:2], TRICKS[8], SCRIPTS[0], *SCRIPTS[2:], SQL[2]]
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
