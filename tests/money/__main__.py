"""Moves credits from several processes that are killed at any moment, and compares what is left with a simple model.

    python -m tests.money [ROUNDS] [--processes P] [--operations N] [--seed S] [--json]

Each round has a database of its own, on which P processes do N operations each: submits (in batches, of several
accounts, prices and parts, some with a date), transfers, grants, orders that are paid or cancelled, messages called
back or ended, numbers that say STOP; automatic re-credits come by themselves, and some forms are sent twice, or by two
processes at once. Two lives of a process in five end before a statement of SQL, one as an operation is done and not
yet noted, one by the clock. What was done, in doubt or refused is then told apart and gone through by a model of
dicts, in the order of the commits.

Exit status 1: something is off; it stands on stderr with the seed of its round, and the database is kept.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.money.operations import KINDS
from tests.money.scenarios import Round, template


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
    made = template(folder)
    for seed in range(args.seed, args.seed + args.rounds):
        played = Round(folder / str(seed), made, str(seed), args.processes, args.operations)
        played.run()
        counts += played.counts
        problems += [f"--seed {seed}: {each}" for each in played.problems]
        if played.problems:
            print(f"--seed {seed}: see {played.file.parent}", file=sys.stderr)
        else:
            shutil.rmtree(played.file.parent)
    if not problems:
        shutil.rmtree(folder)
    for each in problems[:50]:
        print(each, file=sys.stderr)
    head = {"seed": args.seed, "rounds": args.rounds, "processes": args.processes}
    if args.json:
        print(json.dumps({**head, "counts": counts, "problems": problems}))
    else:
        print(", ".join(f"{name} {value}" for name, value in head.items()))
        print("  operations: " + ", ".join(f"{name} {counts[name]:,}" for name in KINDS))
        rest = sorted(counts.keys() - set(KINDS))
        print("\n".join(f"  {name}: {counts[name]:,}" for name in rest))
        print(f"  problems found: {len(problems)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
