"""The money is right whatever comes between what: many processes that are killed, and one that hypothesis leads."""

import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.money.machine import CreditMachine
from tests.support import ROOT

pytestmark = pytest.mark.slow

_ROUNDS, _PROCESSES = 10, 4


def test_processes_that_are_killed_lose_and_invent_no_credits():
    """`python -m tests.money` plays more rounds, and says what came of them."""
    words = [sys.executable, "-m", "tests.money", str(_ROUNDS), "--processes", str(_PROCESSES), "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    counts = report["counts"]
    # That all of this has happened, or nothing was proved.
    for what in (
        "killed before a statement",
        "in doubt and not done",
        "messages accepted",
        "messages refused",
        "messages stopped",
        "automatic re-credits",
        "refunds",
        "refused: FormAlreadySent",
        "refused: NotEnoughCredits",
    ):
        assert counts.get(what), (what, report)


def test_each_step_does_what_the_model_says():
    run_state_machine_as_test(
        CreditMachine,
        settings=settings(max_examples=25, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )
