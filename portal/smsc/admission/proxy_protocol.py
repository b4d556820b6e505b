"""The PROXY protocol, versions 1 and 2: a balancer's word about whose connection it passes on.

Section numbers are those of "The PROXY protocol, versions 1 & 2" (HAProxy's doc/proxy-protocol.txt, 2020-03-05).
"""

import ipaddress
import re

from portal.services.accounts.allowed_ips import IPAddress, unmap_ipv4

MAX_HEADER_LENGTH = 4096
"""Octets. Version 1 has 107 at most (2.1); version 2 some hundred, with all that balancers add to it."""

_V1_PREFIX = b"PROXY "
_V1_MAX_LENGTH = 107
_V1_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4})\r\n")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
_MAX_PORT = 65535

_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED_LENGTH = 16
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_V2_TCP_OVER_IPV4, _V2_TCP_OVER_IPV6 = 0x11, 0x21
# By address family: none, IPv4, IPv6, Unix.
_V2_ADDRESS_LENGTHS = (0, 12, 36, 216)
_V2_MAX_TRANSPORT = 2


class ProxyHeaderError(Exception):
    """What came is no header of the PROXY protocol; the text says why."""


def count_header_octets(octets: bytes) -> int:
    """Return how many octets the header has that begins with these, or as many as are needed to tell more.

    Raises ProxyHeaderError as soon as it can't be one.
    """
    if octets.startswith(_V1_PREFIX[: len(octets)]):
        end = octets.find(b"\n", 0, _V1_MAX_LENGTH)
        if end < 0 and len(octets) >= _V1_MAX_LENGTH:
            raise ProxyHeaderError(f"the line has no end within {_V1_MAX_LENGTH} octets")
        return end + 1 or len(octets) + 1
    if not octets.startswith(_V2_SIGNATURE[: len(octets)]):
        raise ProxyHeaderError("it begins with something else")
    if len(octets) < _V2_FIXED_LENGTH:
        return _V2_FIXED_LENGTH
    length = _V2_FIXED_LENGTH + int.from_bytes(octets[14:16])
    if length > MAX_HEADER_LENGTH:
        raise ProxyHeaderError(f"it has {length} octets, more than {MAX_HEADER_LENGTH}")
    return length


def parse_header(header: bytes) -> IPAddress | None:
    """Return the client's address in a whole header, IPv4 where mapped into IPv6.

    None where it names none: a connection of the balancer's own, as for a health check, or one that isn't TCP.
    Raises ProxyHeaderError.
    """
    return _parse_v2(header) if header.startswith(_V2_SIGNATURE) else _parse_v1(header)


def _parse_v1(line: bytes) -> IPAddress | None:
    if _V1_UNKNOWN.fullmatch(line):
        return None
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise ProxyHeaderError(f"the line {line!r} is not as it should be")
    family = ipaddress.IPv4Address if match[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        source, _ = (family(address.decode()) for address in match.group(2, 3))
    except ValueError as error:
        raise ProxyHeaderError(str(error)) from None
    if max(map(int, match.group(4, 5))) > _MAX_PORT:
        raise ProxyHeaderError(f"the line {line!r} has a port that there isn't")
    return unmap_ipv4(source)


def _parse_v2(header: bytes) -> IPAddress | None:
    version_and_command, family_and_transport = header[12], header[13]
    if version_and_command == _V2_LOCAL:
        return None
    if version_and_command != _V2_PROXY:
        raise ProxyHeaderError(f"its version and command are 0x{version_and_command:02x}")
    family, transport = divmod(family_and_transport, 16)
    if family >= len(_V2_ADDRESS_LENGTHS) or transport > _V2_MAX_TRANSPORT:
        raise ProxyHeaderError(f"its address family and transport are 0x{family_and_transport:02x}")
    addresses = header[_V2_FIXED_LENGTH:]
    if len(addresses) < _V2_ADDRESS_LENGTHS[family]:
        raise ProxyHeaderError("its addresses are not all there")
    if family_and_transport == _V2_TCP_OVER_IPV4:
        return ipaddress.IPv4Address(addresses[:4])
    if family_and_transport == _V2_TCP_OVER_IPV6:
        return unmap_ipv4(ipaddress.IPv6Address(addresses[:16]))
    return None
