"""The paths of files that ship with the program, and the command that starts the program.

The paths are absolute: the single binary unpacks itself into a temporary folder, and the working folder is the user's.
"""

import os
import stat
import sys
from io import FileIO
from pathlib import Path

ROOT = Path(getattr(sys, "_MEIPASS", Path(__file__).resolve().parents[2]))
TEMPLATES = ROOT / "templates"
STATIC = ROOT / "static"
TRANSLATIONS = ROOT / "portal" / "translations"
PRICES_CSV = ROOT / "portal" / "prices.csv"
FREQUENT_PASSWORDS_GZ = ROOT / "portal" / "frequent_passwords.txt.gz"


def get_program_command_line() -> list[str]:
    """Return the command that starts this program again, without arguments."""
    frozen = getattr(sys, "frozen", False)
    return [sys.executable] if frozen else [sys.executable, str(Path(sys.argv[0]).absolute())]


def open_lock_file(path: Path) -> FileIO:
    """Open a file that processes lock by flock(), without changing what is in it; it is created if it is missing.

    Raises:
        OSError: it can't be opened, or is a link or something else than a file. Whoever owns the folder could otherwise
            have other files written, or somebody wait for the other end of a pipe.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is no file")
    return FileIO(fd, "r+")
