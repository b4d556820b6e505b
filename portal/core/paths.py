"""The paths of files that ship with the program, and the command that starts the program.

The paths are absolute: the single binary unpacks itself into a temporary folder, and the working folder is the user's.
"""

import sys
from pathlib import Path

ROOT = Path(getattr(sys, "_MEIPASS", Path(__file__).resolve().parents[2]))
TEMPLATES = ROOT / "templates"
STATIC = ROOT / "static"
TRANSLATIONS = ROOT / "portal" / "translations"
PRICES_CSV = ROOT / "portal" / "prices.csv"


def get_program_command_line() -> list[str]:
    """Return the command that starts this program again, without arguments."""
    frozen = getattr(sys, "frozen", False)
    return [sys.executable] if frozen else [sys.executable, str(Path(sys.argv[0]).absolute())]
