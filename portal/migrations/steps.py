"""All migrations, in the order in which they are applied: that of their numbers.

A new one is a file of this package, `m<number>_<name>.py`, with a function of the same name.

What a released migration executes must never change, because databases have applied it already; nor must its name,
because they store it. `tests/migrations/test_steps.py` has a hash of what each executes. So a migration uses nothing
from the program that may change, except `sql.py`, which is as fixed as the migrations.

There is no m0010: m0012_search had that number on its branch, and got a new one when it was merged.
"""

from importlib import import_module

from sqlite_utils import Migrations

from portal.migrations.applied import KNOWN_NAMES

migrations = Migrations("portal")

for name in sorted(KNOWN_NAMES):
    migrations()(getattr(import_module(f"portal.migrations.{name}"), name))
