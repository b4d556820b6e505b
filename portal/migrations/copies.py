"""The copies of the database from before migrations."""

from pathlib import Path

FOLDER_NAME = "backups"
# `.part` until the migration is about to be committed.
_PREFIX = "before-migration-"


def remove_partial_copies(data: Path) -> None:
    """Remove what migrations have left that were killed, and the empty files of older versions that had no room.

    To be called while nobody migrates.

    Raises:
        OSError
    """
    folder = data / FOLDER_NAME
    empty = [each for each in folder.glob(f"{_PREFIX}*.db") if not each.stat().st_size]
    for each in [*folder.glob(f"{_PREFIX}*.part*"), *empty]:
        each.unlink()


def remove_old_copies(data: Path, *, keep: int) -> None:
    """Remove all copies but the newest, once a server is ready with the database as it is.

    Args:
        keep: how many stay.

    Raises:
        OSError
    """
    remove_partial_copies(data)
    copies = sorted((data / FOLDER_NAME).glob(f"{_PREFIX}*.db"))
    for old in copies[: max(0, len(copies) - keep)]:
        old.unlink()
