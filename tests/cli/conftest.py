"""What tests of commands share: running one that must succeed, one that must be refused, and one without the cast."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

RunApp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ok(run_app: RunApp) -> Callable[..., Any]:
    """Runs a command that must succeed; returns its JSON value."""

    def run(*args: object, stdin: str = "") -> Any:
        done = run_app(*args, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


@pytest.fixture
def refused(run_app: RunApp) -> Callable[..., str]:
    """Runs a command that must be refused; returns its one line."""

    def run(*args: object, stdin: str = "") -> str:
        done = run_app(*args, stdin=stdin)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        return done.stderr

    return run


@pytest.fixture
def start_app(tmp_path: Path) -> RunApp:
    """Runs a command in a process of its own and an empty folder, without a data folder of the cast."""

    def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, ROOT / "app.py", *map(str, args)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            env={"PATH": os.environ["PATH"]} | env,
        )

    return run


@pytest.fixture(autouse=True)
def _sigint_is_heard() -> Iterator[None]:
    """A shell has what it runs in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
