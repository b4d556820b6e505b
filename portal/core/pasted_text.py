"""What people paste: marks that nobody sees, and nobody meant to copy, are left out."""

import re

# Soft hyphens; zero-width spaces and joiners of words; marks, embeddings, overrides and isolates of direction.
_MARKS = "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
_JOINERS = "[\u200c\u200d]+"
_NO_BREAK_SPACES = "\u00a0\u2007\u202f"
_TO_SPACES = str.maketrans(dict.fromkeys(_NO_BREAK_SPACES, " "))


def remove_invisible_marks(text: str) -> str:
    """Remove what web pages, mails and spreadsheets hide in what is copied from them.

    No-break spaces become spaces; around the text they are removed, too.

    Not for passwords, which are what they are, nor for texts of messages, in which these characters have a meaning.
    """
    if text.isascii():
        return text
    # Compiled here, for most commands get nothing but ASCII, and that takes two milliseconds.
    text = re.sub(_JOINERS, _replace_joiners, re.sub(_MARKS, "", text))
    return text.strip(_NO_BREAK_SPACES).translate(_TO_SPACES)


def _replace_joiners(joiners: re.Match[str]) -> str:
    # Between letters of scripts such as Persian, and in emoji, joiners have a meaning; beside ASCII they have none.
    text = joiners.string
    neighbours = text[max(joiners.start() - 1, 0) : joiners.start()], text[joiners.end() : joiners.end() + 1]
    return "" if any(each.isascii() for each in neighbours) else joiners[0]
