"""What a page offers: where its links lead, and what its forms send. And whether something in it runs as a script."""

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urljoin, urlsplit

_VOID = {"input", "br", "hr", "img", "meta", "link", "use", "path", "rect", "line", "circle", "wbr"}
_ADDRESSES = {"href", "src", "action", "formaction", "poster", "data", "xlink:href"}
_METHODS = ("get", "post", "put", "patch", "delete")
_SCHEMES = re.compile(r"[\x00-\x20]*(javascript|data|vbscript):", re.IGNORECASE)


@dataclass
class Field:
    """A control's name, its kind (`text`, `hidden`, `file`, …), and what it would send; the rest of its choices.

    A button that sends the form and nothing of its own has no name.
    """

    name: str
    kind: str
    values: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)


@dataclass
class Form:
    """What sends something. `address` is a path with its query; `is_htmx`: only htmx sends it."""

    method: str
    address: str
    multipart: bool
    fields: dict[str, Field]
    is_htmx: bool = False


@dataclass
class Page:
    links: set[str] = field(default_factory=set)
    forms: list[Form] = field(default_factory=list)


@dataclass
class _Control:
    attrs: dict[str, str]
    tag: str
    form: int | str | None
    text: str = ""
    options: list[tuple[str, bool]] = field(default_factory=list)


class _Reader(HTMLParser):
    """Collects elements with what they belong to; form `n` is the n-th one."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[dict[str, str]] = []
        self.controls: list[_Control] = []
        self.senders: list[tuple[str, str, dict[str, str], int | None]] = []
        self.links: list[str] = []
        self._form: int | None = None
        self._select: _Control | None = None
        self._option: dict[str, str] | None = None
        self._textarea: _Control | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        attrs = {name: value or "" for name, value in attributes}
        if tag == "form":
            self._form = len(self.forms)
            self.forms.append(attrs)
        if tag in ("a", "area") and "href" in attrs:
            self.links.append(attrs["href"])
        for method in _METHODS:
            if f"hx-{method}" in attrs:
                self.senders.append((method, attrs[f"hx-{method}"], attrs, self._form))
        if tag in ("input", "select", "textarea", "button"):
            control = _Control(attrs, tag, attrs.get("form") or self._form)
            self.controls.append(control)
            self._select = control if tag == "select" else self._select
            self._textarea = control if tag == "textarea" else self._textarea
        if tag == "option" and self._select:
            self._select.options.append((attrs.get("value", ""), "selected" in attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        if tag == "select":
            self._select = None
        if tag == "textarea":
            self._textarea = None

    def handle_data(self, data: str) -> None:
        if self._textarea:
            self._textarea.text += data


# To read whole pages would take most of the time that it takes to walk through them.
_READ = re.compile(
    r"""<textarea\b.*?</textarea>|</?(?:a|area|form|input|select|option|button)\b(?:"[^"]*"|'[^']*'|[^>"'])*>"""
    r"""|<[a-z]+\b(?:"[^"]*"|'[^']*'|[^>"'])*?\bhx-(?:"[^"]*"|'[^']*'|[^>"'])*>""",
    re.DOTALL,
)


def read_page(html: str, address: str) -> Page:
    """Args:
    address: the page's path with its query.
    """
    reader = _Reader()
    reader.feed("".join(_READ.findall(html)))
    reader.close()
    page = Page()
    ids = {attrs["id"]: n for n, attrs in enumerate(reader.forms) if attrs.get("id")}
    fields: dict[int | None, dict[str, Field]] = {None: {}} | {n: {} for n in range(len(reader.forms))}
    for control in reader.controls:
        form = ids.get(control.form) if isinstance(control.form, str) else control.form
        _add_control(fields[form], control)
    for n, attrs in enumerate(reader.forms):
        method = attrs.get("method", "get").lower()
        action = _resolve(attrs.get("action", ""), address)
        if action is not None:
            page.forms.append(Form(method, action, "multipart" in attrs.get("enctype", ""), fields[n]))
    for control in reader.controls:
        form = ids.get(control.form) if isinstance(control.form, str) else control.form
        action = _resolve(control.attrs.get("formaction", ""), address)
        if "formaction" in control.attrs and form is not None and action is not None:
            method = control.attrs.get("formmethod") or reader.forms[form].get("method", "get")
            page.forms.append(Form(method.lower(), action, False, fields[form]))
    for method, target, attrs, form in reader.senders:
        resolved = _resolve(target, address)
        if resolved is not None:
            page.forms.append(_build_htmx_form(method, resolved, attrs, fields[form]))
    page.links = {each for link in reader.links if (each := _resolve(link, address)) is not None}
    return page


def _build_htmx_form(method: str, address: str, attrs: dict[str, str], fields: dict[str, Field]) -> Form:
    sent = {name: each for name, each in fields.items() if each.kind != "submit"}
    for name, value in json.loads(attrs.get("hx-vals", "{}")).items():
        sent[name] = Field(name, "hidden", [str(value)])
    if "hx-params" in attrs:
        sent = {name: each for name, each in sent.items() if name in attrs["hx-params"].split(",")}
    return Form(method, address, "multipart" in attrs.get("hx-encoding", ""), sent, is_htmx=True)


def _add_control(fields: dict[str, Field], control: _Control) -> None:
    attrs = control.attrs
    name = attrs.get("name", "")
    kind = attrs.get("type", "submit" if control.tag == "button" else "text").lower()
    if control.tag not in ("input", "button"):
        kind = control.tag
    if kind in ("button", "reset") or (not name and kind != "submit"):
        return
    each = fields.setdefault(name, Field(name, kind))
    if kind == "select":
        chosen = [value for value, selected in control.options if selected] or [v for v, _ in control.options[:1]]
        each.values += chosen
        each.choices += [value for value, _ in control.options]
    elif kind in ("checkbox", "radio", "submit"):
        value = attrs.get("value", "on" if kind != "submit" else "")
        each.choices.append(value)
        if "checked" in attrs or (kind == "submit" and not each.values):
            each.values.append(value)
    elif kind == "textarea":
        each.values.append(control.text.removeprefix("\r\n").removeprefix("\n"))
    elif kind != "file":
        each.values.append(attrs.get("value", ""))


def _resolve(link: str, address: str) -> str | None:
    """The path of this site, with its query; None: it leads elsewhere."""
    parts = urlsplit(urljoin(f"http://localhost{address}", link))
    if parts.scheme != "http" or parts.netloc != "localhost":
        return None
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def list_query_names(address: str) -> set[str]:
    return {name for name, _ in parse_qsl(urlsplit(address).query, keep_blank_values=True)}


# --- what runs


class _ScriptFinder(HTMLParser):
    """Finds where a marker has come into what a browser runs or takes for markup."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self._marker = marker
        self._in_script = False
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._in_script = tag in ("script", "style")
        if self._marker in tag:
            self.found.append(f"<{tag}>")
        for name, value in attributes:
            text = value or ""
            if self._marker in name:
                self.found.append(f"an attribute of <{tag}> that is called {name}")
            if self._marker not in text:
                continue
            is_event = name.startswith(("on", "hx-on")) or name in ("style", "srcdoc")
            is_address = name in _ADDRESSES or name.removeprefix("hx-") in _METHODS
            leaves = is_address and (_SCHEMES.match(text) or re.match(r"[\s\\/]{2}", text))
            if is_event or leaves or (name in ("hx-vals", "hx-headers") and not _is_json(text)):
                self.found.append(f"<{tag} {name}={text[:80]!r}>")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script and self._marker in data:
            self.found.append(f"a script: {data[:80]!r}")

    def handle_comment(self, data: str) -> None:
        if self._marker in data:
            self.found.append(f"a comment: {data[:80]!r}")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# Scripts and styles with what is in them, comments, and tags. To read whole pages would take most of the test's time.
_MARKUP = re.compile(
    r"""<(script|style)\b.*?</\1[^>]*>|<!--.*?-->|<[a-z!/?](?:"[^"]*"|'[^']*'|[^>"'])*>""", re.DOTALL | re.IGNORECASE
)


def find_scripts(html: str, marker: str) -> list[str]:
    """Where a marker that was sent stands unescaped."""
    if marker not in html:
        return []
    finder = _ScriptFinder(marker)
    for each in _MARKUP.finditer(html):
        if marker in each[0]:
            finder.feed(each[0])
            finder.close()
            finder.reset()
    return finder.found
