"""Who listens on a port is read from proc(5)."""

import os
import socket
import subprocess
import sys
from ipaddress import ip_address

import pytest

from certbot_postfix.system.listeners import (
    Listener,
    foreign,
    is_local,
    listening,
)
from tests.lab.machine import has_ipv6

HEADER = "sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt"
REST = "00000000:00000000 00:00000000 00000000 0 0"
TCP = f"""\
  {HEADER} uid timeout inode
   0: 0100007F:0019 00000000:0000 0A {REST} 101 1 0 100 0 0 10 0
   1: 00000000:01D1 00000000:0000 0A {REST} 102 1 0 100 0 0 10 0
   2: 0100007F:0019 0100007F:C001 01 {REST} 103 1 0 100 0 0 10 0
"""
TCP6 = f"""\
  {HEADER} uid timeout inode
   0: {24 * "0"}01000000:0019 {32 * "0"}:0000 0A {REST} 104 1 0 100 0 0 10 0
"""


def test_the_table_tells_who_listens_and_not_who_talks():
    assert list(listening(TCP)) == [
        Listener(ip_address("127.0.0.1"), 25, "101"),
        Listener(ip_address("0.0.0.0"), 465, "102"),
    ]


def test_the_table_of_ipv6_is_read_as_well():
    assert list(listening(TCP6)) == [Listener(ip_address("::1"), 25, "104")]


@pytest.mark.parametrize("table", ["", TCP.splitlines()[0], "header\n  0: cut off\n"])
def test_a_table_without_an_entry_has_none(table):
    assert list(listening(table)) == []


@pytest.mark.parametrize(
    ("at", "host", "port", "blocked"),
    [
        pytest.param("127.0.0.1", "127.0.0.1", 25, True, id="the same"),
        pytest.param("127.0.0.1", "127.0.0.1", 26, False, id="another port"),
        pytest.param("127.0.0.1", "127.0.0.2", 25, False, id="another address"),
        pytest.param("0.0.0.0", "127.0.0.1", 25, True, id="it has all"),
        pytest.param("127.0.0.1", "", 25, True, id="all are wanted"),
        pytest.param("::1", "::1", 25, True, id="IPv6"),
        pytest.param("::1", "127.0.0.1", 25, False, id="another family"),
        pytest.param("127.0.0.1", "localhost", 25, False, id="a name is not judged"),
    ],
)
def test_a_listener_blocks_what_it_would_share(at, host, port, blocked):
    assert Listener(ip_address(at), 25, "1").blocks(host, port) is blocked


@pytest.mark.parametrize(
    ("host", "local"),
    [
        pytest.param(
            "::1", True, marks=pytest.mark.skipif(not has_ipv6(), reason="IPv6 is off")
        ),
        ("2001:db8::1", False),
        ("127.0.0.1", True),
        ("192.0.2.1", True),
    ],
)
def test_an_ipv6_address_may_be_none_of_this_machine(host, local):
    """With inet_protocols = all, and IPv6 switched off; IPv4 is always there."""
    assert is_local(host) is local


def test_a_port_of_another_process_is_foreign_and_an_own_one_is_not():
    with (
        listen() as own,
        subprocess.Popen(
            [sys.executable, "-c", LISTEN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other,
    ):
        taken = int(other.stdout.readline())
        wanted = [("127.0.0.1", own.getsockname()[1]), ("127.0.0.1", taken)]

        found = foreign(wanted, os.getpid())

        other.communicate()
    assert found == [("127.0.0.1", taken)]


LISTEN = """
import socket, sys

with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_a_free_port_is_not_foreign():
    with listen(), listen() as closed:
        free = closed.getsockname()
        closed.close()

        assert foreign([free], os.getpid()) == []


def test_of_a_process_that_is_gone_nothing_is_said():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    with listen() as taken:
        assert foreign([taken.getsockname()], gone.pid) == []
