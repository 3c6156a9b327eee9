"""The whole suite runs without a network: `no_network` in conftest.py holds it to that."""

import socket

import pytest

from tests.conftest import NetworkUsed


@pytest.mark.parametrize("address", [("192.0.2.1", 443), ("example.org", 80)])
@pytest.mark.parametrize("name", ["connect", "connect_ex"])
def test_connections_out_of_this_machine_fail(address: tuple[str, int], name: str) -> None:
    with socket.socket() as own, pytest.raises(NetworkUsed, match=str(address[1])):
        getattr(own, name)(address)


def test_connections_within_this_machine_work() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as own:
        own.connect(server.getsockname())
