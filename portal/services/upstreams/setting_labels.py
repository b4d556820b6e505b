"""What forms call the settings of an upstream: the words of carriers' letters."""

from collections.abc import Mapping

from portal.core.i18n import N_, gettext

_LABELS: Mapping[str, str] = {
    "host": N_("Host"),
    "port": N_("Port"),
    "second_host": N_("Second host"),
    "second_port": N_("Second port"),
    "tls": N_("TLS"),
    "tls_verify": N_("Check the certificate"),
    "tls_ca_file": N_("File of the authorities"),
    "tls_server_name": N_("Name in the certificate"),
    "tls_certificate": N_("File of the client certificate"),
    "tls_key": N_("File of its key"),
    "tls_minimum": N_("Lowest version of TLS"),
    "connect_seconds": N_("Seconds to connect"),
    "enquire_link_seconds": N_("Seconds until enquire_link"),
    "reconnect_seconds": N_("Seconds until it connects again"),
    "system_id": N_("SystemID"),
    "system_type": N_("system_type"),
    "bind": N_("Kind of bind"),
    "binds": N_("Binds"),
    "interface_version": N_("Version of SMPP"),
    "address_ton": N_("TON of the address range"),
    "address_npi": N_("NPI of the address range"),
    "address_range": N_("Address range"),
    "bind_seconds": N_("Seconds to bind"),
    "window": N_("Window"),
    "throughput": N_("Throughput"),
    "throttle_seconds": N_("Seconds of pause when throttled"),
    "response_seconds": N_("Seconds to answer"),
    "unanswered": N_("What isn't answered"),
    "failover_seconds": N_("Seconds until failover"),
    "status_map": N_("Map of command_status"),
    "source_ton": N_("TON of senders"),
    "source_npi": N_("NPI of senders"),
    "dest_ton": N_("TON of destinations"),
    "dest_npi": N_("NPI of destinations"),
    "number_format": N_("Before the country code"),
    "charset": N_("Charset of data_coding 0"),
    "missing_characters": N_("Missing characters"),
    "other_alphabets": N_("Other alphabets"),
    "long_texts": N_("Long texts"),
    "tlvs": N_("Optional parameters to add"),
    "pass_tlvs": N_("Optional parameters to pass on"),
    "default_validity_seconds": N_("Seconds of validity"),
    "max_validity_seconds": N_("Most seconds of validity"),
    "registered_delivery": N_("Receipts asked for"),
    "message_ids": N_("Form of message ids"),
    "receipt_id_from": N_("Where the id is"),
    "receipt_id_pattern": N_("Pattern of the id"),
    "error_map": N_("Map of error codes"),
    "intermediate_states": N_("Intermediate states"),
    "receipt_timezone": N_("Time zone of dates"),
    "refund": N_("Refund"),
    "receipt_charset": N_("Charset of receipts"),
    "inbound_country": N_("Country of numbers"),
}


def get_setting_label(name: str) -> str:
    """In the reader's language."""
    return gettext(_LABELS[name])
