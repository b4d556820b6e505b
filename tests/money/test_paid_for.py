"""Over real SMPP, each account is given exactly as many messages as its credits buy."""

import time
from pathlib import Path

import pytest

from tests.money.spending import SpendingScenario

pytestmark = pytest.mark.slow

_SUBMITS, _ACCOUNTS = 3_000, 20


@pytest.mark.parametrize("kills", [0, 3])
def test_exactly_as_many_are_accepted_as_were_paid_for(tmp_path: Path, kills: int) -> None:
    """`bench/money --submits 100000` does it with more; `--kill` kills the server meanwhile."""
    seed = time.time_ns() % 1_000_000
    print(f"bench/money --submits {_SUBMITS} --accounts {_ACCOUNTS} --kill {kills} --seed {seed}")
    shop = SpendingScenario.create(tmp_path / "data", _SUBMITS, _ACCOUNTS, seed)
    counts = shop.run_scenario(kills)
    assert list(shop.find_problems()) == []
    # Or nothing was proved.
    for what in ("accepted", "refused", "refused after an accepted one", "grants", "transfers"):
        assert counts[what], counts
    assert bool(counts["in doubt"]) == bool(kills)
