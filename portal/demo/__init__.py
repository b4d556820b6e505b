"""The demo: a data folder of its own with example data, created on the first run, and the text that explains it."""

import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import pyotp

from portal.core import clock, crypto, db, i18n, paths
from portal.core import config as settings
from portal.core.config import Config, bracket_ipv6, wildcard_to_loopback
from portal.core.i18n import _
from portal.core.progress import Progress, no_progress
from portal.demo import client, fixtures
from portal.demo.fixtures import LIVE_ACCOUNT, OPERATOR, OWNER, SENDING_ACCOUNT, VIEWER
from portal.services.messages import smpp_config
from portal.services.people import users

DEFAULT_FOLDER = Path("data") / "demo"
_LOGINS_FILE = "demo.json"
_TEMPORARY_FOLDER = ".making"
_TOTP_STEP_S = 30
_SETTINGS_TOML = """\
name = "SMPP Portal demo"

[payments]
instructions = "{instructions}"
"""


@dataclass(frozen=True)
class DemoLogins:
    """The demo's logins and SMPP passwords. They are stored unencrypted beside the database: a demo has no secrets."""

    password: str
    totp_secrets: dict[str, str]
    smpp_passwords: dict[str, str]

    def totp_code(self, email: str = OWNER) -> str:
        """Return a user's current TOTP code.

        Raises:
            NoSuchUser
        """
        if email not in self.totp_secrets:
            raise users.NoSuchUser(email=email)
        return pyotp.TOTP(self.totp_secrets[email]).now()

    def totp_uri(self, email: str, issuer: str) -> str:
        """Return the otpauth URI, which an authenticator app can read."""
        return pyotp.TOTP(self.totp_secrets[email]).provisioning_uri(name=email, issuer_name=issuer)


def read_shell_language() -> str:
    """The language that the shell's LC_ALL, LC_MESSAGES or LANG name, or the default one."""
    names = filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG")))
    return i18n.best_language([next(names, "").replace("_", "-")])


def create_demo(config: Config, progress: Progress = no_progress) -> None:
    """Create the demo's database, key and settings, unless they are there, in the language in use. This takes some
    seconds.

    Args:
        progress: is told groups of messages, which take most of the time.

    Raises:
        OSError, sqlite3.Error: there is no demo.
        KeyboardInterrupt: from `progress`; there is no demo.
    """
    if config.database_file.exists():
        return
    # Created in a temporary folder and moved, the database last: so a demo is complete as soon as it is there.
    folder = config.data / _TEMPORARY_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    try:
        password = "-".join(secrets.token_hex(2) for _ in range(4))
        logins = DemoLogins(password, *fixtures.create_demo_data(folder, password, progress))
        _write_private_file(folder / _LOGINS_FILE, json.dumps(asdict(logins), indent=2) + "\n")
        if not (config.data / settings.FILE_NAME).exists():
            instructions = _("Bank transfer to Portal Ltd, IBAN AT61 1904 3002 3457 3201. (A demo: please don't.)")
            _write_private_file(config.data / settings.FILE_NAME, _SETTINGS_TOML.format(instructions=instructions))
        for name in (crypto.FILE_NAME, _LOGINS_FILE, config.database_file.name):
            (folder / name).replace(config.data / name)
    finally:
        shutil.rmtree(folder)


def _write_private_file(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def load_logins(config: Config) -> DemoLogins:
    """Load the logins of the demo in a data folder.

    Raises:
        FileNotFoundError: there is no demo.
    """
    return DemoLogins(**json.loads((config.data / _LOGINS_FILE).read_text()))


def format_welcome(config: Config) -> str:
    """Format the text that is printed at the start: the URL, the logins, how to send a message and receive one."""
    logins, command = load_logins(config), _format_command(config, "demo")
    simulate_command = _format_command(config, "simulate", "mo")
    seconds_left = _TOTP_STEP_S - int(time.time()) % _TOTP_STEP_S
    smpp, password = config.smpp, logins.smpp_passwords[SENDING_ACCOUNT]
    is_valid = _is_password_valid(config, password)
    host = bracket_ipv6(wildcard_to_loopback(smpp.host))
    ports = ((smpp.port, "unsecured"), (smpp.tls_port, "TLS"))
    endpoints = [f"{host}:{port} ({kind})" for port, kind in ports if port]
    return f"""
{config.name} is ready. Ctrl-C stops it.

  Open        {config.public_url}
  E-mail      {OWNER}
  Password    {logins.password}
  TOTP code   {logins.totp_code()}   for {seconds_left} more seconds, good once; the next: {command} --code
              {logins.totp_uri(OWNER, config.name)}
  Also        {VIEWER} (sees, changes nothing), {OPERATOR} (operator):
              same password; code: {command} --code EMAIL

  SMPP        {", ".join(endpoints)}
  system_id   {SENDING_ACCOUNT}
  password    {password if is_valid else "the one that was generated in the page since"}
  Send        {command} {"" if is_valid else "--password PASSWORD "}--send 393401234567 "Hello from the demo"
  Receive     {simulate_command} --from 393401234567 --to {fixtures.VIRTUAL_NUMBER} "Hello back"

  Data        {config.data}
"""


def _is_password_valid(config: Config, password: str) -> bool:
    """Whether the sending account still has this password: it may have been replaced in the page."""
    digest = crypto.Keys.load(config.data).digest_smpp_password(password)
    with closing(db.connect(config.database_file)) as conn:
        configs = [each for each in smpp_config.load_account_configs(conn) if each.name == SENDING_ACCOUNT]
    return any(each.find_valid_password_id(digest, clock.now_ms()) is not None for each in configs)


def _format_command(config: Config, *words: str) -> str:
    """Format a command of this program as it can be typed in the current folder."""
    parts = [_format_program(Path(part)) for part in paths.get_program_command_line()]
    is_default = words == ("demo",) and config.data == DEFAULT_FOLDER.absolute()
    return " ".join([*parts, *words, *([] if is_default else ["--data", _format_path(config.data)])])


def _format_program(file: Path) -> str:
    relative = _format_path(file)
    return relative if "/" in relative or file.suffix == ".py" else f"./{relative}"


def _format_path(file: Path) -> str:
    relative = os.path.relpath(file)
    return str(file) if relative.startswith("..") else relative


def send_message(config: Config, destination: str, text: str, password: str | None = None) -> Iterator[str]:
    """Send a message over SMPP, as the demo's first account.

    Args:
        password: the account's; None: the one that it was created with.

    Yields:
        Lines of text that report the progress.

    Raises:
        DemoSendFailed, FileNotFoundError
    """
    password = password or load_logins(config).smpp_passwords[SENDING_ACCOUNT]
    return client.send_message(config.smpp, SENDING_ACCOUNT, password, destination, text)


def start_client(config: Config, language: str) -> None:
    """Start the client that sends all the while, in a thread that ends with this process. A demo that an earlier
    version has made has no account for it.
    """
    password = load_logins(config).smpp_passwords.get(LIVE_ACCOUNT)
    if password is not None:

        def run() -> None:
            i18n.use_language(language)
            client.send_all_the_while(config.smpp, LIVE_ACCOUNT, password)

        threading.Thread(target=run, name="demo client", daemon=True).start()
