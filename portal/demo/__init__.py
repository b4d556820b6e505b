"""The demo: a data folder of its own, made up on the first run, and what its visitor needs to know."""

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyotp

from portal.core import clock, db
from portal.core import config as settings
from portal.core.config import Config, bracketed, reachable
from portal.core.crypto import FILE_NAME as KEY_FILE
from portal.core.crypto import Keys
from portal.demo import client, fixtures
from portal.demo.fixtures import OPERATOR, OWNER, SENDING_ACCOUNT, VIEWER
from portal.services.messages import smpp_config
from portal.services.people import users

FOLDER = Path("data") / "demo"
_LOGINS = "demo.json"
_UNFINISHED = ".making"
_STEP_S = 30
_SETTINGS = """\
name = "SMPP Portal demo"

[payments]
instructions = "Bank transfer to Portal Ltd, IBAN AT61 1904 3002 3457 3201. (A demo: please don't.)"
"""


@dataclass(frozen=True)
class Logins:
    """Who can log in, and how clients bind. Kept in the clear beside the database: a demo has no secrets."""

    password: str
    totp_secrets: dict[str, str]
    smpp_passwords: dict[str, str]

    def code(self, email: str = OWNER) -> str:
        """The TOTP code of this moment.

        Raises:
            NoSuchUser
        """
        if email not in self.totp_secrets:
            raise users.NoSuchUser(email=email)
        return pyotp.TOTP(self.totp_secrets[email]).now()

    def uri(self, email: str, issuer: str) -> str:
        """What an authenticator app reads."""
        return pyotp.TOTP(self.totp_secrets[email]).provisioning_uri(name=email, issuer_name=issuer)


def make(config: Config) -> None:
    """Make the demo's database, key and settings, unless they are there. Takes two seconds."""
    if config.database.exists():
        return
    # Made beside and moved, the database last: a demo that is there is a whole one.
    folder = config.data / _UNFINISHED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    password = "-".join(secrets.token_hex(2) for _ in range(3))
    logins = Logins(password, *fixtures.set_up(folder, password))
    _write(folder / _LOGINS, json.dumps(asdict(logins), indent=2) + "\n")
    if not (config.data / settings.FILE_NAME).exists():
        _write(config.data / settings.FILE_NAME, _SETTINGS)
    for name in (KEY_FILE, _LOGINS, config.database.name):
        (folder / name).replace(config.data / name)
    shutil.rmtree(folder)


def _write(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def load(config: Config) -> Logins:
    """The logins of the demo in a data folder.

    Raises:
        FileNotFoundError: no demo has been made there.
    """
    return Logins(**json.loads((config.data / _LOGINS).read_text()))


def welcome(config: Config) -> str:
    """What to open, who to log in as, and how to send a message and receive one."""
    logins, command = load(config), _command(config, "demo")
    left = _STEP_S - int(time.time()) % _STEP_S
    smpp, password = config.smpp, logins.smpp_passwords[SENDING_ACCOUNT]
    good = _still_good(config, password)
    host = bracketed(reachable(smpp.host))
    ports = [
        f"{host}:{smpp.port} (unsecured)" if smpp.port else "",
        f"{host}:{smpp.tls_port} (TLS)" if smpp.tls_port else "",
    ]
    return f"""
{config.name} is ready. Ctrl-C stops it.

  Open        {config.public_url}
  E-mail      {OWNER}
  Password    {logins.password}
  TOTP code   {logins.code()}   for {left} more seconds, good once; the next: {command} --code
              {logins.uri(OWNER, config.name)}
  Also        {VIEWER} (sees, changes nothing), {OPERATOR} (operator):
              same password; code: {command} --code EMAIL

  SMPP        {", ".join(filter(None, ports))}
  system_id   {SENDING_ACCOUNT}
  password    {password if good else "the one that was generated in the page since"}
  Send        {command} {"" if good else "--password PASSWORD "}--send 393401234567 "Hello from the demo"
  Receive     {_command(config, "simulate", "mo")} --from 393401234567 --to {fixtures.VIRTUAL_NUMBER} "Hello back"

  Data        {config.data}
"""


def _still_good(config: Config, password: str) -> bool:
    """Whether the sending account's first password has not been replaced in the page."""
    digest, conn = Keys.load(config.data).smpp_digest(password), db.connect(config.database)
    try:
        return any(
            account.password_id(digest, clock.now_ms()) is not None
            for account in smpp_config.load(conn)
            if account.name == SENDING_ACCOUNT
        )
    finally:
        conn.close()


def _command(config: Config, *words: str) -> str:
    """A command of this program, as what can be typed in the folder where it was started."""
    frozen = getattr(sys, "frozen", False)
    parts = [_shown(Path(part)) for part in ([sys.executable] if frozen else [sys.executable, sys.argv[0]])]
    usual = words == ("demo",) and config.data == FOLDER.absolute()
    return " ".join([*parts, *words, *([] if usual else ["--data", _relative(config.data)])])


def _shown(file: Path) -> str:
    relative = _relative(file)
    return relative if "/" in relative or file.suffix == ".py" else f"./{relative}"


def _relative(file: Path) -> str:
    relative = os.path.relpath(file)
    return str(file) if relative.startswith("..") else relative


def send(config: Config, destination: str, text: str, password: str | None = None) -> Iterator[str]:
    """Send a message over SMPP, as the demo's first account.

    Args:
        password: the account's; None: the one that it was made with.

    Yields:
        What happens, a line each.

    Raises:
        CannotSend, FileNotFoundError
    """
    password = password or load(config).smpp_passwords[SENDING_ACCOUNT]
    return client.send(config.smpp, SENDING_ACCOUNT, password, fixtures.SENDER, destination, text)
