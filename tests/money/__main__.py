"""Moves credits from several processes that are killed at any moment, and compares what is left with a simple model.

    python -m tests.money [ROUNDS] [--processes P] [--operations N] [--seed S] [--json]

Each round has a database of its own, on which P processes do N operations each: submits (in batches, of several
accounts, prices and parts, some with a date), transfers, grants, orders that are paid or cancelled, messages that are
cancelled or end, numbers that are blacklisted. Automatic re-credits happen by themselves, and some forms are sent
twice, or by two processes at the same time. Of five runs of a process, two end before an SQL statement, one after an
operation that is not yet in the journal, and one after a time. Then all operations (done, in doubt or refused) are
replayed on a model made of dicts, in the order of the commits.

Exit status 1: there are differences; they are on stderr with the seed of their round, and the database is kept.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.money.operations import OPERATION_KINDS
from tests.money.scenarios import CrashScenario, create_template


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=20, help="default 20")
    parser.add_argument("--processes", type=int, default=4, help="default 4")
    parser.add_argument("--operations", type=int, default=60, help="of each process and round (default 60)")
    parser.add_argument(
        "--seed", type=int, default=time.time_ns() % 1_000_000, help="of the first round; then one more each"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    problems: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="money-"))
    template_file = create_template(folder)
    for seed in range(args.seed, args.seed + args.rounds):
        scenario = CrashScenario(folder / str(seed), template_file, str(seed), args.processes, args.operations)
        scenario.run()
        counts += scenario.counts
        problems += [f"--seed {seed}: {each}" for each in scenario.problems]
        if scenario.problems:
            print(f"--seed {seed}: see {scenario.file.parent}", file=sys.stderr)
        else:
            shutil.rmtree(scenario.file.parent)
    if not problems:
        shutil.rmtree(folder)
    for each in problems[:50]:
        print(each, file=sys.stderr)
    head = {"seed": args.seed, "rounds": args.rounds, "processes": args.processes}
    if args.json:
        print(json.dumps({**head, "counts": counts, "problems": problems}))
    else:
        print(", ".join(f"{name} {value}" for name, value in head.items()))
        print("  operations: " + ", ".join(f"{name} {counts[name]:,}" for name in OPERATION_KINDS))
        other_counts = sorted(counts.keys() - set(OPERATION_KINDS))
        print("\n".join(f"  {name}: {counts[name]:,}" for name in other_counts))
        print(f"  problems found: {len(problems)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
