"""Templates are indented for those who read them; pages are sent without that."""

import re

from flask import Flask
from jinja2.ext import Extension

_BLOCKS = (
    "table|thead|tbody|tr|th|td|div|p|dl|dt|dd|ul|ol|li|h[1-6]|form|fieldset|legend|section|header|main|footer"
    "|nav|details|label|summary|figure|figcaption|option|button|dialog|template|br"
    "|html|head|title|meta|link|script|body"
)
# Around the tags of blocks (inside those of buttons) whitespace is never shown, of that around a hidden input only one,
# and icons have their distance from the stylesheet: there the line break goes too. Elsewhere it is a space.
_INDENTATION = re.compile(
    rf"""\s*\n\s*(?= <(?!button)(?:{_BLOCKS})\b | </(?:{_BLOCKS})\b | <input[ ]type="hidden"
                    | <svg[ ]class="icon" | <(?:use|path)\b | </svg> )
      | (?P<tag> <(?:{_BLOCKS})\b[^<>{{}}]*> | </(?!button)(?:{_BLOCKS}|svg)> ) \s*\n\s*
      | (?P<attribute> \n[ \t]+(?=[a-z{{]) )
      | (?<=\n)[ \t]+
      | (?<=")[ ](?=/>)""",
    re.VERBOSE,
)


class IndentationRemover(Extension):
    """Takes indentation from a template when it is loaded: once, and not with every page."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return _INDENTATION.sub(lambda match: match["tag"] or (" " if match["attribute"] else ""), source)


def init_template_source(app: Flask) -> None:
    app.jinja_env.add_extension(IndentationRemover)
