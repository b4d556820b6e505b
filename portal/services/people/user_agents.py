"""Names of browsers and systems, by which users recognise their own login sessions."""

# The first match counts: most browsers also name those below them.
_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
)
_OPERATING_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


def describe_user_agent(user_agent: str) -> str:
    """ "Firefox, Windows"; empty where neither is known: whoever logs in can write what they like into the header."""
    names = (_find_first_name(_BROWSERS, user_agent), _find_first_name(_OPERATING_SYSTEMS, user_agent))
    return ", ".join(each for each in names if each)


def _find_first_name(known_names: tuple[tuple[str, str], ...], user_agent: str) -> str:
    return next((name for token, name in known_names if token in user_agent), "")
