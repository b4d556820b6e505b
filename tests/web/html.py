"""Is this HTML right? Asked of every answer that a test gets."""

import re
from collections import Counter
from xml.etree.ElementTree import Element

import html5lib
from html5lib.constants import E as MEANINGS

_REFERRING = ("for", "aria-labelledby", "aria-describedby", "aria-controls")
# The dialog's title arrives with its content.
_ARRIVES_LATER = {"modal-title"}


def faults(text: str) -> list[str]:
    """What is wrong with a page or a fragment: nesting, ids used twice, what the Content-Security-Policy forbids."""
    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    whole = text.lstrip().lower().startswith("<!doctype")
    tree = parser.parse(text) if whole else parser.parseFragment(text, container=_container(text))
    found = [f"line {line}: {MEANINGS[code] % values}" for (line, _), code, values in parser.errors]
    elements = [each for each in tree.iter() if isinstance(each.tag, str)]
    ids = Counter(each.get("id") for each in elements if each.get("id"))
    found += [f"id {name!r} is used {times} times" for name, times in ids.items() if times > 1]
    for each in elements:
        found += _forbidden(each)
        if whole:
            found += _dangling(each, set(ids) | _ARRIVES_LATER)
    return found


def _container(text: str) -> str:
    first = re.search(r"<(\w+)", text)
    return {"tr": "tbody", "tbody": "table", "td": "tr", "th": "tr"}.get(first[1] if first else "", "div")


def _forbidden(element: Element) -> list[str]:
    inline = [name for name in element.attrib if name == "style" or name.startswith(("on", "hx-on"))]
    found = [f"<{element.tag} {name}=…> is inline" for name in inline]
    if element.tag == "style" or (element.tag == "script" and not element.get("src")):
        found.append(f"<{element.tag}> is inline")
    if element.tag == "form" and element.get("method", "get").lower() == "post" and not _has_token(element):
        found.append(f"the form that posts to {element.get('action', 'its own page')} has no token")
    return found


def _has_token(form: Element) -> bool:
    return any(each.get("name") == "csrf_token" and each.get("value") for each in form.iter("input"))


def _dangling(element: Element, ids: set[str]) -> list[str]:
    wanted = {name: element.get(name, "").split() for name in _REFERRING}
    return [
        f"<{element.tag} {name}={each!r}>: there is no such id"
        for name, names in wanted.items()
        for each in names
        if each not in ids
    ]
