"""Where the files that ship with the program lie.

The paths are absolute: the single binary unpacks itself into a temporary folder, and the working folder is the user's.
"""

import sys
from pathlib import Path

ROOT = Path(getattr(sys, "_MEIPASS", Path(__file__).resolve().parent.parent))
TEMPLATES = ROOT / "templates"
STATIC = ROOT / "static"
TRANSLATIONS = ROOT / "portal" / "translations"
PRICES = ROOT / "portal" / "prices.csv"
