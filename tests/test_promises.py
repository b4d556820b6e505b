"""docs/smpp.md: each promise has a test, each of these tests exists, and each command_status is documented."""

import ast
import re
from functools import cache

import pytest

from portal.smsc.protocol.constants import CommandStatus
from tests.support import ROOT

PAGE = (ROOT / "docs" / "smpp.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))


def rows() -> list[tuple[str, str]]:
    cells = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return [(promise, held_by) for promise, held_by in cells if promise not in ("promise", "---")]


@pytest.mark.parametrize(("promise", "held_by"), rows())
def test_a_promise_is_held_by_tests_that_exist(promise: str, held_by: str) -> None:
    named = NAMED.findall(held_by)
    assert held_by == ", ".join(f"`{file}::{name}`" for file, name in named)
    assert named
    missing = [
        f"{file}::{name}" for file, name in named if not name.startswith("test_") or name not in functions_of(file)
    ]
    assert not missing


@pytest.mark.parametrize("status", CommandStatus, ids=lambda each: each.name)
def test_each_status_is_told(status: CommandStatus) -> None:
    assert re.search(rf"\b{status.name} 0x{status:02X}\b", PAGE)
