"""What can be set of an upstream, and that docs/upstreams.md says the same."""

import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from portal.services.common.errors import Refused
from portal.services.upstreams.setting_checks import (
    InvalidCountry,
    InvalidErrorMap,
    InvalidIdPattern,
    InvalidIntermediateStates,
    InvalidStatusMap,
    InvalidTimeZone,
    InvalidUpstreamHost,
    InvalidUpstreamSetting,
    InvalidUpstreamTags,
    InvalidUpstreamText,
    InvalidUpstreamTlvs,
    UnusableCertificateFile,
    UnusableKeyFile,
)
from portal.services.upstreams.settings import (
    DEFAULTS,
    GROUPS,
    RULES,
    OptionalParametersIn33,
    PatternOfUnreadText,
    SecondHostIsFirst,
    SettingNeedsOther,
    UpstreamSettingMissing,
    UpstreamSettings,
    ValidityAboveMaximum,
    check_client_certificate,
    check_settings_together,
    format_setting,
    list_changed_settings,
    parse_setting,
)
from portal.smsc.admission import tls
from tests.smsc.upstream.smpp_client.tls_carrier import Authority
from tests.support import ROOT

ENOUGH = UpstreamSettings(host="smpp.carrier.example", system_id="acme")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("host", " smpp.carrier.example ", "smpp.carrier.example"),
        ("host", "2001:db8::1", "2001:db8::1"),
        ("host", "192.0.2.1", "192.0.2.1"),
        ("host", "smsc_1", "smsc_1"),
        ("port", "3550", 3550),
        ("port", 3550, 3550),
        ("tls", "yes", True),
        ("tls", False, False),
        ("bind", "TX+RX", "tx+rx"),
        ("interface_version", "3.3", 0x33),
        ("interface_version", 0x50, 0x50),
        ("source_ton", "auto", None),
        ("source_ton", None, None),
        ("source_ton", "5", 5),
        ("throughput", "0", 0),
        ("registered_delivery", "none", 0),
        ("message_ids", "hex-to-dec", "hex-to-dec"),
        ("status_map", " 0x58=throttle, 69=fail:100", "0x58=throttle, 69=fail:100"),
        ("error_map", "27=6", "27=6"),
        ("intermediate_states", "UNKNOWN", "UNKNOWN"),
        ("receipt_id_pattern", "ref=([0-9a-f]+)", "ref=([0-9a-f]+)"),
        ("receipt_timezone", "Europe/Rome", "Europe/Rome"),
        ("inbound_country", "IT", "IT"),
        ("inbound_country", "", ""),
        ("charset", "Latin-1", "latin-1"),
        ("tlvs", " 0x1400=0A0b, 1401= ", "0x1400=0A0b, 1401="),
    ],
)
def test_a_value_is_read_as_it_is_typed_and_as_it_is(name, text, value):
    read = parse_setting(name, text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("name", RULES)
def test_each_default_is_a_value_and_reads_as_it_is_written(name):
    default = getattr(DEFAULTS, name)
    assert parse_setting(name, default) == default
    assert parse_setting(name, format_setting(name, default)) == default


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("port", "0", "1–65535"),
        ("port", "65536", "1–65535"),
        ("port", "two", "1–65535"),
        ("port", "", "1–65535"),
        ("port", None, "1–65535"),
        ("window", "0", "1–1000"),
        ("throughput", "-1", "0–100000"),
        ("throughput", "1.5", "0–100000"),
        ("throughput", "1_000", "0–100000"),
        ("throughput", "٣", "0–100000"),
        ("port", "9" * 5000, "1–65535"),
        ("bind", "rx", "trx, tx[+]rx"),
        ("tls", "maybe", "yes, no"),
        ("tls", 7, "yes, no"),
        ("source_npi", "19", "auto, 0–18"),
        ("interface_version", "3.5", "3.3, 3.4, 5.0"),
        ("unanswered", "wait", "resend, fail"),
        ("charset", "utf8", "gsm, gsm-packed, latin-1, ascii, utf-8"),
        ("missing_characters", "keep", "ucs2, replace, fail"),
        ("other_alphabets", "ucs2", "keep, convert"),
        ("long_texts", "udh", "udh8, udh16, sar, payload"),
        ("tls_minimum", "1.1", "1[.]2, 1[.]3"),
    ],
)
def test_what_is_none_of_the_values_is_refused_with_those_there_are(name, value, says):
    with pytest.raises(InvalidUpstreamSetting, match=f"of {name}[.] Possible: {says}") as caught:
        parse_setting(name, value)
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("name", "value", "refusal"),
    [
        ("system_id", "x" * 16, InvalidUpstreamText),
        ("system_id", "à", InvalidUpstreamText),
        ("system_id", "a\0b", InvalidUpstreamText),
        ("system_type", "x" * 13, InvalidUpstreamText),
        ("address_range", "x" * 41, InvalidUpstreamText),
        ("host", "x" * 254, InvalidUpstreamText),
        ("host", "smpp.carrier.example:2775", InvalidUpstreamHost),
        ("host", "smpp://carrier.example", InvalidUpstreamHost),
        ("host", "a b", InvalidUpstreamHost),
        ("host", "192.0.2.256", InvalidUpstreamHost),
        ("host", "[2001:db8::1]", InvalidUpstreamHost),
        ("tls_server_name", "carrier..example", InvalidUpstreamHost),
        ("tls_server_name", f"{'x' * 64}.example", InvalidUpstreamHost),
        ("system_id", 7, InvalidUpstreamSetting),
        ("status_map", "0x58=throttle, 0x58=retry", InvalidStatusMap),
        ("status_map", "x" * 1001, InvalidUpstreamText),
        ("error_map", "27=7777", InvalidErrorMap),
        ("intermediate_states", "DELIVRD", InvalidIntermediateStates),
        ("receipt_id_pattern", "((a+)+)", InvalidIdPattern),
        ("receipt_id_pattern", "x" * 101, InvalidUpstreamText),
        ("receipt_timezone", "Rome", InvalidTimeZone),
        ("receipt_timezone", "../etc/passwd", InvalidTimeZone),
        ("receipt_timezone", "", InvalidTimeZone),
        ("receipt_timezone", "Europe", InvalidTimeZone),
        ("inbound_country", "XX", InvalidCountry),
        ("inbound_country", "39", InvalidCountry),
        ("inbound_country", "Italy", InvalidCountry),
        ("pass_tlvs", "0x1400=00", InvalidUpstreamTags),
        ("pass_tlvs", "0", InvalidUpstreamTags),
        ("pass_tlvs", "0x1400 message_payload", InvalidUpstreamTags),
        ("pass_tlvs", "020C", InvalidUpstreamTags),
        ("tlvs", "0x1400", InvalidUpstreamTlvs),
        ("tlvs", "0x1400=a", InvalidUpstreamTlvs),
        ("tlvs", "0x1400=text", InvalidUpstreamTlvs),
        ("tlvs", "0x11400=00", InvalidUpstreamTlvs),
        ("tlvs", "0=00", InvalidUpstreamTlvs),
        ("tlvs", "0x1400=00 1400=01", InvalidUpstreamTlvs),
        ("tlvs", "0x0424=00", InvalidUpstreamTlvs),
        ("tlvs", "1400=" + "00" * 250, InvalidUpstreamText),
    ],
)
def test_a_text_that_smpp_or_the_net_has_no_place_for_is_refused(name, value, refusal):
    with pytest.raises(refusal, match=name) as caught:
        parse_setting(name, value)
    assert caught.value.field == name


def test_the_entry_of_a_map_that_is_wrong_is_named_with_what_there_may_be():
    with pytest.raises(InvalidStatusMap, match=r"^“0x45=fail:99” can't stand in status_map[.]") as caught:
        parse_setting("status_map", "0x58=throttle, 0x45=fail:99")
    assert " 100, 101, " in str(caught.value)


def test_texts_may_be_as_long_as_smpp_has_them():
    for name, length in (("system_id", 15), ("system_type", 12), ("address_range", 40)):
        assert parse_setting(name, "x" * length) == "x" * length


def test_a_ca_file_must_hold_certificates(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(UnusableCertificateFile, match="No such file"):
        parse_setting("tls_ca_file", str(file))
    file.write_text("none")
    with pytest.raises(UnusableCertificateFile, match=r"of tls_ca_file, .*: no certificate in PEM is in it"):
        parse_setting("tls_ca_file", str(file))
    file.write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
    with pytest.raises(UnusableCertificateFile, match=": OpenSSL can't read it "):
        parse_setting("tls_ca_file", str(file))
    with pytest.raises(UnusableCertificateFile, match="begin with /"):
        parse_setting("tls_ca_file", "ca.pem")
    certificate, _ = tls.ensure_certificate(tmp_path, "carrier.example")
    assert parse_setting("tls_ca_file", str(certificate)) == str(certificate)
    assert parse_setting("tls_ca_file", "") == ""


def test_a_client_certificate_and_its_key_must_be_what_they_should_be(tmp_path: Path) -> None:
    certificate, key = tls.ensure_certificate(tmp_path, "acme")
    for name, file, refusal, says in (
        ("tls_certificate", key, UnusableCertificateFile, "no certificate in PEM is in it"),
        ("tls_certificate", tmp_path / "none", UnusableCertificateFile, "No such file"),
        ("tls_key", certificate, UnusableKeyFile, "no private key in PEM is in it"),
        ("tls_key", Path("smpp.key"), UnusableKeyFile, "begin with /"),
    ):
        with pytest.raises(refusal, match=f"of {name}, .*{says}") as caught:
            parse_setting(name, str(file))
        assert caught.value.field == name
    assert parse_setting("tls_key", str(key)) == str(key)


@pytest.mark.parametrize("name", ["tls_ca_file", "tls_certificate", "tls_key"])
def test_a_file_that_a_server_would_read_for_ever_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(bytes((1 << 20) + 1))
    for path, says in (
        (tmp_path / "pipe", "it is no regular file"),
        (tmp_path, "it is no regular file"),
        (Path("/dev/zero"), "it is no regular file"),
        (tmp_path / "long", "it is longer than 1 MiB"),
    ):
        with pytest.raises((UnusableCertificateFile, UnusableKeyFile), match=f"of {name}, .*{says}"):
            parse_setting(name, str(path))


def test_a_client_certificate_and_its_key_must_belong_together(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("acme")
    _, other_key = authority.issue("other")
    _, sealed_key = authority.issue("sealed", passphrase="secret")
    settings = replace(ENOUGH, tls=True, tls_certificate=str(certificate))
    check_client_certificate(replace(settings, tls_key=str(key)))
    with pytest.raises(UnusableKeyFile, match="doesn't belong to the certificate"):
        check_client_certificate(replace(settings, tls_key=str(other_key)))
    with pytest.raises(UnusableKeyFile, match=r"it has a passphrase, .*openssl pkey"):
        check_client_certificate(replace(settings, tls_key=str(sealed_key)))
    with pytest.raises(UnusableCertificateFile, match="no private key in PEM is in it"):
        check_client_certificate(settings)
    certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
    check_client_certificate(settings)


@pytest.mark.parametrize(
    ("settings", "refusal", "field"),
    [
        (replace(ENOUGH, host=""), UpstreamSettingMissing, "host"),
        (replace(ENOUGH, system_id=""), UpstreamSettingMissing, "system_id"),
        (replace(ENOUGH, tls_ca_file="/ca.pem"), SettingNeedsOther, "tls_ca_file"),
        (replace(ENOUGH, tls_server_name="x"), SettingNeedsOther, "tls_server_name"),
        (replace(ENOUGH, tls_certificate="/a.crt"), SettingNeedsOther, "tls_certificate"),
        (replace(ENOUGH, tls_minimum="1.3"), SettingNeedsOther, "tls_minimum"),
        (replace(ENOUGH, tls=True, tls_key="/a.key"), SettingNeedsOther, "tls_key"),
        (replace(ENOUGH, tls_verify=False), SettingNeedsOther, "tls_verify"),
        (replace(ENOUGH, second_port=2776), SettingNeedsOther, "second_port"),
        (replace(ENOUGH, second_host="SMPP.carrier.example"), SecondHostIsFirst, "second_host"),
        (replace(ENOUGH, second_host=ENOUGH.host, second_port=2775), SecondHostIsFirst, "second_host"),
        (replace(ENOUGH, receipt_id_pattern="(.)", receipt_id_from="tlv"), PatternOfUnreadText, "receipt_id_pattern"),
        (replace(ENOUGH, interface_version=0x33, tlvs="0x1400=0A"), OptionalParametersIn33, "tlvs"),
        (replace(ENOUGH, interface_version=0x33, pass_tlvs="0x1400"), OptionalParametersIn33, "pass_tlvs"),
        (replace(ENOUGH, interface_version=0x33, long_texts="sar"), OptionalParametersIn33, "long_texts"),
        (replace(ENOUGH, interface_version=0x33, long_texts="payload"), OptionalParametersIn33, "long_texts"),
        (
            replace(ENOUGH, default_validity_seconds=61, max_validity_seconds=60),
            ValidityAboveMaximum,
            "default_validity_seconds",
        ),
    ],
)
def test_settings_must_go_together(settings, refusal, field):
    with pytest.raises(refusal) as caught:
        check_settings_together(settings)
    assert isinstance(caught.value, Refused)
    assert caught.value.field == field


def test_settings_that_go_together():
    check_settings_together(ENOUGH)
    check_settings_together(replace(ENOUGH, tls=True, tls_ca_file="/ca.pem", tls_server_name="x"))
    check_settings_together(replace(ENOUGH, second_host=ENOUGH.host, second_port=2776))
    check_settings_together(replace(ENOUGH, receipt_id_pattern="(.)", receipt_id_from="text"))
    check_settings_together(replace(ENOUGH, interface_version=0x33, long_texts="udh16"))
    check_settings_together(replace(ENOUGH, default_validity_seconds=60))
    check_settings_together(replace(ENOUGH, default_validity_seconds=60, max_validity_seconds=60))


def test_the_binds_by_their_numbers():
    assert replace(DEFAULTS, binds=2).bind_kinds == ("trx", "trx")
    assert replace(DEFAULTS, bind="tx+rx", binds=2).bind_kinds == ("tx", "rx", "tx", "rx")


def test_only_what_differs_from_the_defaults_is_stored():
    assert list_changed_settings(DEFAULTS) == {}
    assert list_changed_settings(replace(ENOUGH, source_ton=0)) == {
        "host": "smpp.carrier.example",
        "system_id": "acme",
        "source_ton": 0,
    }


def test_the_page_has_each_setting_with_its_default_and_what_it_is():
    page = (ROOT / "docs" / "upstreams.md").read_text()
    told = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert told == [
        (name, rule.help, f"`{format_setting(name, default)}`" if default != "" else "", rule.choices)
        for (name, rule), default in zip(RULES.items(), asdict(DEFAULTS).values(), strict=True)
    ]
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == [each.capitalize() for each in GROUPS]


def test_the_page_about_carriers_letters_names_options_and_values_that_there_are():
    page = (ROOT / "docs" / "carriers.md").read_text()
    named = dict.fromkeys(re.findall(r"(?<![\w-])--([a-z][a-z-]+)(?: ([\w+-][\w.+-]*))?", page))
    assert len(named) > 20
    for option, value in named:
        if option == "password-stdin":
            continue
        name = option.removeprefix("no-").replace("-", "_")
        assert name in RULES, option
        if value and RULES[name].words and not RULES[name].is_flag:
            assert value in RULES[name].words or value.isdigit(), f"--{option} {value}"
