"""The database's schema, as numbered steps that are only added to: one file a step, named as databases know it."""

from portal.migrations.runner import NewerDatabase, migrate, unknown_steps
from portal.migrations.steps import migrations

__all__ = ["NewerDatabase", "migrate", "migrations", "unknown_steps"]
