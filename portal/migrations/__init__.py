"""The database's schema, as numbered steps that are only ever added to."""

from portal.migrations.runner import NewerDatabase, migrate, migrations, unknown_steps

__all__ = ["NewerDatabase", "migrate", "migrations", "unknown_steps"]
