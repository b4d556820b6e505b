from collections.abc import Callable
from pathlib import Path

import pytest

from portal.core import config as settings
from portal.core.config import Config, ConfigError


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """Loads settings from a file with this text, under this environment."""

    def loaded(text: str = "", **env: str) -> Config:
        file = tmp_path / "settings.toml"
        file.write_text(text)
        return settings.load_config(file, tmp_path, env)

    return loaded


def origins(config: Config) -> dict[str, str]:
    return {each.key: each.origin for each in config.setting_origins}


@pytest.mark.parametrize(
    ("text", "env", "says"),
    [
        ("[web]\nprot = 1\n", {}, "is port meant"),
        ("[wbe]\nport = 1\n", {}, "is web meant"),
        ("[web]\nzzz = 1\n", {}, "there are host, port, "),
        ("", {"PORTAL_WEB_PRT": "1"}, "is PORTAL_WEB_PORT meant"),
    ],
)
def test_a_misspelt_setting_is_told_from_those_there_are(load, text, env, says):
    with pytest.raises(ConfigError, match=says):
        load(text, **env)


def test_defaults(load):
    config = load()
    assert (config.web.host, config.web.port) == ("127.0.0.1", 8000)
    assert (config.smpp.port, config.smpp.tls_port) == (2775, 3550)
    assert config.limits.ips_per_account == 10
    assert config.mail.url == ""
    assert config.public_url == "http://127.0.0.1:8000"
    assert config.database_file == config.data / "portal.db"


def test_the_environment_goes_before_the_file(load, tmp_path):
    config = load("[smpp]\nport = 1\ntls_port = 2\n", PORTAL_SMPP_PORT="3")
    assert (config.smpp.port, config.smpp.tls_port) == (3, 2)
    assert origins(config)["smpp.port"] == "PORTAL_SMPP_PORT"
    assert origins(config)["smpp.tls_port"] == str(tmp_path / "settings.toml")
    assert origins(config)["web.port"] == "default"


def test_every_kind_of_value(load):
    text = 'name = "Acme SMS"\ntimezone = "Europe/Rome"\n[web]\ntrusted_proxies = ["10.0.0.0/8", "::1"]\n'
    config = load(text, PORTAL_MAIL_FROM="a@b.example", PORTAL_WEB_PUBLIC_URL="https://sms.example/")
    assert (config.name, config.timezone) == ("Acme SMS", "Europe/Rome")
    assert [str(each) for each in config.trusted_proxy_networks] == ["10.0.0.0/8", "::1/128"]
    assert config.mail.sender == "a@b.example"
    assert config.public_url == "https://sms.example"
    assert load(PORTAL_WEB_TRUSTED_PROXIES="10.0.0.1, 10.0.0.2").web.trusted_proxies == ("10.0.0.1", "10.0.0.2")
    assert config.proxy_protocol_networks == ()
    behind = load("[smpp]\nproxy_protocol_from = ['172.16.0.0/12', '::1']\ntls_minimum = '1.2'\n")
    assert [str(each) for each in behind.proxy_protocol_networks] == ["172.16.0.0/12", "::1/128"]
    assert (behind.smpp.tls_minimum, config.smpp.tls_minimum) == ("1.2", "1.3")


def test_what_nobody_sees_in_what_was_pasted_is_left_out(load):
    text = (
        '\ufeff[web]\nhost = "127.0.\u00ad0.2\u00a0"\npublic_url = "https://sms.example\u200b"\n'
        'trusted_proxies = ["\u202a10.0.0.0/8\u202c\u00a0"]\n[smpp]\npublic_host = "smpp\u2060.example"\n'
    )
    config = load(
        text,
        PORTAL_SMPP_PORT="\u200e2776",
        PORTAL_SMPP_HOST="\u200e::1",
        PORTAL_SMPP_PROXY_PROTOCOL_FROM="10.0.0.1\u00a0, \u202a10.0.0.2\u202c",
        PORTAL_MAIL_FROM="a@b.example\u200b",
    )
    assert (config.web.host, config.web.public_url) == ("127.0.0.2", "https://sms.example")
    assert [str(each) for each in config.trusted_proxy_networks] == ["10.0.0.0/8"]
    assert (config.smpp.port, config.smpp.host, config.smpp.public_host) == (2776, "::1", "smpp.example")
    assert config.smpp.proxy_protocol_from == ("10.0.0.1", "10.0.0.2")
    assert config.mail.sender == "a@b.example"


def test_passwords_and_names_of_files_are_what_they_are(load):
    marked = "pa\u00adss\u00a0word\u200e"
    url = f"smtp://portal:{marked}@mail.example"
    text = f"""
        data = "{marked}"
        [mail]
        url = "{url}"
        [smpp]
        tls_certificate = "{marked}.crt"
        tls_key = "{marked}.key"
        [web]
        metrics_token = "{marked}"
        [payments]
        secret = "{marked * 3}"
    """
    for config in (
        load(text),
        load(
            PORTAL_DATA=marked,
            PORTAL_MAIL_URL=url,
            PORTAL_SMPP_TLS_CERTIFICATE=f"{marked}.crt",
            PORTAL_SMPP_TLS_KEY=f"{marked}.key",
            PORTAL_WEB_METRICS_TOKEN=marked,
            PORTAL_PAYMENTS_SECRET=marked * 3,
        ),
    ):
        assert config.mail.url == url
        assert (config.smpp.tls_certificate, config.smpp.tls_key) == (f"{marked}.crt", f"{marked}.key")
        assert (config.web.metrics_token, config.payments.secret) == (marked, marked * 3)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1", "colour"),
        ("[web]\ncolour = 1", "web.colour"),
        ("[wbe]\nport = 1", "wbe"),
        ("web = 1", "web"),
        ('[smpp]\nport = "x"', "smpp.port"),
        ("[smpp]\nport = true", "smpp.port"),
        ("[smpp]\nport = 70000", "smpp.port"),
        ("[web]\nport = 0", "web.port"),
        ("[web]\nthreads = 0", "web.threads"),
        ("[web]\ntrusted_proxies = '10.0.0.1'", "web.trusted_proxies"),
        ("[web]\ntrusted_proxies = ['x']", "web.trusted_proxies"),
        ("[smpp]\nproxy_protocol_from = '10.0.0.1'", "smpp.proxy_protocol_from"),
        ("[smpp]\nproxy_protocol_from = ['10.0.0.1/8']", "smpp.proxy_protocol_from"),
        ("[smpp]\ntls_minimum = '1.1'", "smpp.tls_minimum"),
        ("[smpp]\ntls_minimum = 1.2", "smpp.tls_minimum"),
        ("[smpp]\nunknown_system_id = '0x0D'", "smpp.unknown_system_id"),
        ("[web]\npublic_url = 'ftp://x'", "web.public_url"),
        ("[web]\npublic_url = 'https://'", "web.public_url"),
        ("[web]\nhsts_subdomains = 'yes'", "web.hsts_subdomains"),
        ("[web]\npublic_url = 'https://x:port'", "web.public_url"),
        ("[web]\npublic_url = 'https://x/sms; Domain=y'", "web.public_url"),
        ("data = 5", "data"),
        ("[mail]\nurl = 'http://x'", "mail.url"),
        ("[mail]\nurl = 'smtp://x:port'", "mail.url"),
        ("[mail]\nurl = 'smtp://'", "mail.url"),
        ("[mail]\ntls = 'none'", "mail.tls"),
        ("[documents]\nclamd = 'clamd.example'", "documents.clamd"),
        ("[documents]\nclamd = 'clamd.example:65536'", "documents.clamd"),
        ("[documents]\nclamd = 'tcp://clamd.example:3310'", "documents.clamd"),
        ("[documents]\nclamd = 'run/clamd.ctl'", "documents.clamd"),
        ("[brakes]\nexpensive_credits = 'many'", "brakes.expensive_credits"),
        ("[brakes]\nbusy_hour_days = 91", "brakes.busy_hour_days"),
        ("[smpp]\ntls_key = 'x'", "smpp.tls_certificate"),
        ("[smpp]\nport = 0\ntls_port = 0", "smpp.port"),
        ("timezone = 'Mars/Olympus'", "timezone"),
        ("[billing]\nenabled = 'yes'", "billing.enabled"),
        ("[billing]\nenabled = true", "billing.enabled"),
        (f"[payments]\nsecret = '{'x' * 31}'", "payments.secret"),
        ("[payments]\nsecret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa=='", "payments.secret"),
        ("[payments]\nsecret = 'whsec_this is no base64, is it? no, it is not'", "payments.secret"),
        ("[payments]\ncheckout_url = 'https://pay.example/'", "payments.secret"),
        (f"[payments]\nsecret = '{'x' * 32}'\ncheckout_url = 'http://pay.example/'", "payments.checkout_url"),
        (f"[payments]\nsecret = '{'x' * 32}'\ncheckout_url = 'https:///x'", "payments.checkout_url"),
        (f"[payments]\nsecret = '{'x' * 32}'\ncheckout_url = 'https://pay.example/#x'", "payments.checkout_url"),
        ("[upstream.x]\nkind = 'simulator'", "`upstream add`"),
        ("this is no TOML", "settings.toml"),
    ],
)
def test_what_is_wrong_is_named(load, text, named):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("secret", ["x" * 32, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
def test_a_payment_page_with_its_secret(load, secret):
    page = "https://pay.example/start?shop=7"
    config = load(f"[payments]\nsecret = '{secret}'\ncheckout_url = '{page}'\ninstructions = 'To\\nIT60'")
    assert (config.payments.checkout_url, config.payments.secret) == (page, secret)
    assert config.payments.instructions == r"To\nIT60"
    assert load(PORTAL_PAYMENTS_SECRET=secret, PORTAL_PAYMENTS_CHECKOUT_URL="http://127.0.0.1:9/").payments.secret


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PORTAL_SMPP_PROT", "1"), ("PORTAL_SMPP_PORT", "x"), ("PORTAL_WEB_PORT", ""), ("PORTAL_LIMITS_NONE", "1")],
)
def test_a_bad_variable_is_named(load, variable, value):
    with pytest.raises(ConfigError):
        load(**{variable: value})


def test_other_programs_variables_do_not_matter(load):
    # Kubernetes makes such ones for a service that is called "portal".
    assert load(PORTAL_PORT="tcp://10.0.0.1:80", PORTAL_SERVICE_HOST="10.0.0.1")


def test_where_the_data_folder_and_the_file_come_from(tmp_path):
    (tmp_path / "config.toml").write_text('name = "From the folder"')
    assert settings.load_config(data=tmp_path, env={}).name == "From the folder"
    assert settings.load_config(env={"PORTAL_DATA": str(tmp_path)}).name == "From the folder"
    other = tmp_path / "other.toml"
    other.write_text(f'name = "Named"\ndata = "{tmp_path / "elsewhere"}"')
    named = settings.load_config(env={"PORTAL_CONFIG": str(other)})
    assert (named.name, named.data) == ("Named", tmp_path / "elsewhere")
    assert settings.load_config(other, tmp_path, {}).data == tmp_path


def test_a_command_is_told_with_the_data_folder_unless_that_is_the_default_one(tmp_path, monkeypatch):
    other = settings.load_config(data=tmp_path / "my data", env={})
    assert other.format_command("upstream test A") == f"app.py upstream test A --data '{tmp_path}/my data'"
    monkeypatch.chdir(tmp_path)
    assert settings.load_config(env={}).format_command("check") == "app.py check"
    file = tmp_path / "smpp.toml"
    file.write_text("")
    assert settings.load_config(file, env={}).format_command("check") == f"app.py check --config {file}"


def test_a_file_that_was_named_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        settings.load_config(tmp_path / "missing.toml", tmp_path, {})


def test_an_ipv6_host_is_bracketed_in_addresses(load):
    assert load(PORTAL_WEB_HOST="::1").public_url == "http://[::1]:8000"


def test_every_setting_says_what_it_is_for(load):
    assert all(each.help for each in load().setting_origins)


def test_a_relative_data_folder_is_under_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.load_config(data=Path("x"), env={}).data == tmp_path / "x"


def test_a_secret_may_be_in_a_file_of_its_own(load, tmp_path):
    names = {"PORTAL_MAIL_URL": "smtp://u:p@mail.example", "PORTAL_WEB_METRICS_TOKEN": "t0ken"}
    names |= {"PORTAL_PAYMENTS_SECRET": "x" * 32, "PORTAL_ALERTS_WEBHOOK_URL": "https://hooks.example/T0/secret"}
    env = {}
    for name, value in names.items():
        (tmp_path / name).write_text(f"{value}\n")
        env[f"{name}_FILE"] = str(tmp_path / name)
    config = load("[mail]\nurl = 'smtp://other.example'\n", **env)
    secrets = (config.mail.url, config.web.metrics_token, config.payments.secret, config.alerts.webhook_url)
    assert secrets == (*names.values(),)
    assert origins(config)["mail.url"] == "PORTAL_MAIL_URL_FILE"
    assert load(**env, PORTAL_WEB_METRICS_TOKEN="nearer").web.metrics_token == "nearer"


def test_a_file_of_a_secret_that_can_not_be_read_is_named(load, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    for name, reason in (
        ("missing", "No such file or directory"),
        ("binary", "it is no text"),
        (".", "Is a directory"),
    ):
        with pytest.raises(ConfigError, match=f"PORTAL_MAIL_URL_FILE: {tmp_path / name}: {reason}"):
            load(PORTAL_MAIL_URL_FILE=str(tmp_path / name))


def test_what_is_no_secret_is_in_no_file(load):
    with pytest.raises(ConfigError, match="PORTAL_WEB_PORT_FILE: unknown setting"):
        load(PORTAL_WEB_PORT_FILE="x")


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/T0",
        "https://",
        "https://hooks.example/T0#x",
        "https://user:password@hooks.example/T0",
        "https://hooks.example:99999/T0",
        "https://hooks.example:0/T0",
        "https://hooks.example/T 0",
        "https://hooks.example/\u00e8",
        "hooks.example/T0",
    ],
)
def test_a_webhook_is_reached_by_https_or_on_this_machine(load, url):
    with pytest.raises(ConfigError, match=r"^alerts\.webhook_url: must look like https") as refused:
        load(f"[alerts]\nwebhook_url = '{url}'")
    assert "T0" not in str(refused.value)
    for good in ("https://hooks.example:8443/T0?x=y", "http://127.0.0.1:8065/hooks/T0", "http://[::1]/T0"):
        assert load(f"[alerts]\nwebhook_url = '{good}'").alerts.webhook_url == good
