"""What every answer in the tests of pages goes through: a check of its HTML, and the removal of its layout."""

import re
from collections import Counter
from hashlib import blake2b
from xml.etree.ElementTree import Element

import html5lib
from html5lib.constants import E as MEANINGS

_ID_REFERENCES = ("for", "aria-labelledby", "aria-describedby", "aria-controls")
# The dialog's title arrives with its content.
_DYNAMIC_IDS = {"modal-title"}
_TOKENS = re.compile(r'(name="csrf_token" value="|"X-CSRFToken":")[^"]+')
_SPACE = r"[ \n\t\r\f]"  # not \s: a no-break space is text
# What a page's errors don't depend on: words between tags, and values of attributes that name nothing.
_WORD = r"[\w .,:;!?%()/+*@#$€·…–—“”‘’'\[\]-]"
_WORDS = re.compile(rf"(>{_SPACE}*){_WORD}*\w{_WORD}*(?={_SPACE}*<)")
_VALUES = re.compile(
    r" (?!(?:id|for|name|type|class|method|style|aria-labelledby|aria-describedby|aria-controls)=)"
    r'([\w:-]+)="[\w .,:;!?%()/+*@#$=\[\]-]+"'
)
# Beside these tags a space is seen nowhere; beside others, which stand within a line, it is.
_BLOCKS = (
    r"!doctype|html|head|title|meta|link|script|body|header|main|footer|nav|section|template|div|dialog|details|summary|"
    r"form|fieldset|legend|option|p|h\d|br|ul|ol|li|dl|dt|dd|table|caption|thead|tbody|tfoot|tr|th|td|use|rect|path"
)
_PIECES = re.compile(
    r'(?P<as_typed><textarea\b.*?</textarea>|<p class="message.*?</p>)'
    rf"|{_SPACE}*(?P<block></?(?:{_BLOCKS})\b[^>]*>){_SPACE}*"
    rf"|(?P<start><button\b[^>]*>){_SPACE}*|{_SPACE}*(?P<end></button>)|(?P<inline><[^>]*>)|{_SPACE}+",
    re.DOTALL,
)


def remove_layout(text: str) -> str:
    """HTML without the layout of its templates, but with each space that a browser shows."""

    def replace(piece: re.Match[str]) -> str:
        if not piece.lastgroup:
            return " "
        tag = piece[piece.lastgroup]
        return tag if piece.lastgroup == "as_typed" else re.sub(r"\n *", " ", tag)

    return _PIECES.sub(replace, text)


def find_html_errors(text: str) -> list[str]:
    """What is wrong with a page or a fragment: nesting, ids used twice, what the Content-Security-Policy forbids."""
    # Many tests get the same page but for its token, its words and its dates. To read it once saves most of the time of
    # the check. Only what has no errors is remembered: they are those of the page as it is.
    outline = blake2b(_VALUES.sub(r' \1="x"', _WORDS.sub(r"\1x", _TOKENS.sub(r"\1token", text))).encode()).digest()
    if outline in _right_outlines:
        return []
    errors = _find_errors(text)
    if not errors:
        _right_outlines.add(outline)
    return errors


_right_outlines = set[bytes]()


def _find_errors(text: str) -> list[str]:
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    is_page = text.lstrip().lower().startswith("<!doctype")
    tree = parser.parse(text) if is_page else parser.parseFragment(text, container=_fragment_container(text))
    errors = [f"line {line}: {MEANINGS[code] % values}" for (line, _), code, values in parser.errors]
    elements = [each for each in tree.iter() if isinstance(each.tag, str)]
    ids = Counter(each.get("id") for each in elements if each.get("id"))
    errors += [f"id {name!r} is used {times} times" for name, times in ids.items() if times > 1]
    for each in elements:
        errors += _find_csp_violations(each)
        if is_page:
            errors += _find_dangling_ids(each, set(ids) | _DYNAMIC_IDS)
    return errors


def _fragment_container(text: str) -> str:
    first = re.search(r"<(\w+)", text)
    return {"tr": "tbody", "tbody": "table", "td": "tr", "th": "tr"}.get(first[1] if first else "", "div")


def _find_csp_violations(element: Element) -> list[str]:
    inline = [name for name in element.attrib if name == "style" or name.startswith(("on", "hx-on"))]
    errors = [f"<{element.tag} {name}=…> is inline" for name in inline]
    if element.tag == "style" or (element.tag == "script" and not element.get("src")):
        errors.append(f"<{element.tag}> is inline")
    if element.tag == "form" and element.get("method", "get").lower() == "post" and not _has_csrf_token(element):
        errors.append(f"the form that posts to {element.get('action', 'its own page')} has no token")
    return errors


def _has_csrf_token(form: Element) -> bool:
    return any(each.get("name") == "csrf_token" and each.get("value") for each in form.iter("input"))


def _find_dangling_ids(element: Element, ids: set[str]) -> list[str]:
    references = {name: element.get(name, "").split() for name in _ID_REFERENCES}
    return [
        f"<{element.tag} {name}={each!r}>: there is no such id"
        for name, names in references.items()
        for each in names
        if each not in ids
    ]


def read_form_fields(text: str, form_id: str) -> dict[str, str]:
    """What a browser would send of a page's form: its fields with their values, without boxes that aren't ticked."""
    document = html5lib.parse(text, treebuilder="etree", namespaceHTMLElements=False)
    form = next(each for each in document.iter("form") if each.get("id") == form_id)
    fields: dict[str, str] = {}
    for each in form.iter():
        name = each.get("name")
        if name is None or each.tag not in ("input", "select", "textarea"):
            continue
        if each.tag == "select":
            options = list(each.iter("option"))
            chosen = next((option for option in options if "selected" in option.attrib), options[0])
            fields[name] = chosen.get("value", "")
        elif each.tag == "textarea":
            fields[name] = each.text or ""
        elif each.get("type") != "checkbox" or "checked" in each.attrib:
            fields[name] = each.get("value", "y" if each.get("type") == "checkbox" else "")
    return fields
