"""Templates are indented for those who read them; pages are sent without that."""

import re

from flask import Flask
from jinja2.ext import Extension

_BLOCKS = (
    "table|thead|tbody|tr|th|td|div|p|dl|dt|dd|ul|ol|li|h[1-6]|form|fieldset|legend|section|header|main|footer"
    "|nav|details|label|summary|figure|figcaption|option|button"
)
# Around the tags of blocks (inside those of buttons), and between the parts of an icon, whitespace is never shown:
# there the line break goes too. Elsewhere one is a space.
_INDENTATION = re.compile(
    rf"""\s*\n\s*(?= <(?!button)(?:{_BLOCKS})\b | </(?:{_BLOCKS})\b | <(?:use|path)\b | </svg\b )
      | (?P<tag> <(?:{_BLOCKS})\b[^<>{{}}]*> | </(?!button)(?:{_BLOCKS})> ) \s*\n\s*
      | (?<=\n)[ \t]+""",
    re.VERBOSE,
)


class IndentationRemover(Extension):
    """Takes indentation from a template when it is loaded: once, and not with every page."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return _INDENTATION.sub(lambda match: match["tag"] or "", source)


def init_template_source(app: Flask) -> None:
    app.jinja_env.add_extension(IndentationRemover)
