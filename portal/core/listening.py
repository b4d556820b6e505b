"""Sockets that listen, for the pages and for the SMPP server."""

import socket

_BACKLOG = 4096


def open_listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Return non-blocking sockets that listen on each address of `host`, on the same port (0: one that is free).

    `::` listens on IPv4 too. Raises OSError, with the address in its text, where that is not possible.
    """
    address_infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((info[0], info[4][0]) for info in address_infos):
            actual_port = sockets[0].getsockname()[1] if sockets else port
            is_dual_stack = address == "::" and socket.has_dualstack_ipv6()
            sockets.append(
                socket.create_server(
                    (address, actual_port), family=family, backlog=_BACKLOG, dualstack_ipv6=is_dual_stack
                )
            )
            sockets[-1].setblocking(False)
    except OSError as error:
        for each in sockets:
            each.close()
        raise OSError(error.errno, f"can't listen on {host} port {port}: {error.strerror}") from error
    return sockets
