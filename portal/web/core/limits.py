"""The pages' limits that are no settings: nobody has had a reason to change them but tests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PageLimits:
    """How long a page works before it shows what there is so far: threads are few, and messages may be millions."""

    # Looking for messages.
    search_seconds: float = 1.0
    # Counting those that a deletion would remove.
    count_seconds: float = 1.0
    # Removing them; the rest is removed in the background.
    delete_seconds: float = 0.5
    # A deletion that took no longer gets no banner, because a toast has told its result.
    untold_deletion_ms: int = 3_000


DEFAULT_PAGE_LIMITS = PageLimits()
