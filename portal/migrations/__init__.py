"""The schema of the database, as numbered migrations: one file for each, with the name that databases store."""

from portal.migrations.runner import NewerDatabase, list_unknown_migrations, migrate
from portal.migrations.steps import migrations

__all__ = ["NewerDatabase", "list_unknown_migrations", "migrate", "migrations"]
