"""SMPP Portal: `python app.py COMMAND`; `python app.py --help` lists the commands."""

import sys

from portal.cli import main

if __name__ == "__main__":
    sys.exit(main())
