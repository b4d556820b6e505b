"""Templates are indented for those who read them; pages are sent without that."""

import re

from jinja2.ext import Extension

# After a tag, `trim_blocks` takes the line break, so that one space has to stay between what is before and behind it.
_INDENTATION = re.compile(r"(?<!%\})\n +|(?<=%\}\n) +(?= )")


class IndentationRemover(Extension):
    """Takes indentation from a template when it is read: a fifth of a page, which is not compressed."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return _INDENTATION.sub(lambda match: match[0].rstrip(" "), source)
