"""Where the files that ship with the program lie, and how the program is started once more.

The paths are absolute: the single binary unpacks itself into a temporary folder, and the working folder is the user's.
"""

import sys
from pathlib import Path

ROOT = Path(getattr(sys, "_MEIPASS", Path(__file__).resolve().parents[2]))
TEMPLATES = ROOT / "templates"
STATIC = ROOT / "static"
TRANSLATIONS = ROOT / "portal" / "translations"
PRICES = ROOT / "portal" / "prices.csv"


def program() -> list[str]:
    """The command that starts this program once more, to which its arguments are added."""
    frozen = getattr(sys, "frozen", False)
    return [sys.executable] if frozen else [sys.executable, str(Path(sys.argv[0]).absolute())]
