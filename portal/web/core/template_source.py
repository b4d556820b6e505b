"""Templates are indented for those who read them; pages are sent without that."""

import re

from jinja2.ext import Extension

# After a tag or a comment `trim_blocks` takes the line break: one space has to stay between what is before and behind.
_INDENTATION = re.compile(r"(?<![%#]\})\n +|(?<=[%#]\}\n) +(?= )")


class IndentationRemover(Extension):
    """Takes indentation from a template when it is read: a fifth of a page, which is not compressed."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return _INDENTATION.sub(lambda match: match[0].rstrip(" "), source)
