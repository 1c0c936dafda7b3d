"""The resolvers that the SMTP client asks are found as libresolv finds them."""

import random
import socket
import threading
import time
from collections.abc import Iterator

import dns.flags
import dns.message
import pytest

from certbot_postfix.dane.observation import Status
from certbot_postfix.dane.observe import BRIEF, observe
from certbot_postfix.outbound.dnssec import hindrance
from certbot_postfix.postfix.configuration import Service
from certbot_postfix.system.dns import nameservers
from tests.test_configuration import configured


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(b"", ["127.0.0.1"], id="nothing"),
        pytest.param(
            b"nameserver 192.0.2.1\nnameserver\t::1 # home\n nameserver 192.0.2.3\n",
            ["192.0.2.1", "::1"],
            id="two",
        ),
        pytest.param(b"nameserver fe80::1%lo\n", ["fe80::1%lo"], id="an interface"),
        pytest.param(
            b"nameserver dns.example\nnameserver 192.0.2.1:53\nnameserver 192.0.2.2\n",
            ["192.0.2.2"],
            id="no address",
        ),
        pytest.param(
            b"domain " + b"a" * 80 + b"\nnameserver \xff\nnameserver 192.0.2.2\n",
            ["192.0.2.2"],
            id="no domain",
        ),
        pytest.param(
            b"".join(b"nameserver 192.0.2.%d\n" % each for each in range(1, 9)),
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"],
            id="many",
        ),
    ],
)
def test_a_line_of_resolv_conf_that_is_not_valid_counts_for_nothing(
    tmp_path, text, found
):
    path = tmp_path / "resolv.conf"
    path.write_bytes(text)

    assert nameservers(path) == found


@pytest.fixture
def cut_off() -> Iterator[str]:
    """Give the address of a resolver that ends each connection instead of answering."""
    address = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.77"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as short,
        socket.create_server((address, 53)) as long,
    ):
        short.bind((address, 53))

        def answer() -> None:
            text, who = short.recvfrom(4096)
            reply = dns.message.make_response(dns.message.from_wire(text))
            reply.flags |= dns.flags.TC
            short.sendto(reply.to_wire(), who)
            long.accept()[0].close()

        threading.Thread(target=answer, daemon=True).start()
        yield address


@pytest.mark.postfix
def test_a_resolver_that_ends_the_connection_does_not_answer(tmp_path, cut_off):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text(f"nameserver {cut_off}\n")
    client = Service("smtp", "unix", "smtp", {}, chroot="y")
    said = {
        "queue_directory": str(tmp_path),
        "smtp_dns_support_level": "dnssec",
        "smtp_host_lookup": "dns",
    }
    names = ("disable_dns_lookups", "ignore_mx_lookup_error")
    said |= dict.fromkeys(names, "no") | {"smtp_dns_resolver_options": ""}

    why = hindrance(configured(client, content_filter="", **said))

    assert why.startswith(f"the resolver {cut_off} in {tmp_path}")
    assert why.endswith("does not answer")


@pytest.fixture
def silent() -> Iterator[str]:
    """Give the address of a resolver that never answers."""
    address = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.78"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as received:
        received.bind((address, 53))
        yield address


@pytest.mark.postfix
def test_a_resolver_that_hangs_costs_two_seconds_for_all_tlsa_records(silent):
    owners = [f"_25._tcp.mx{number}.example.org" for number in range(40)]
    start = time.monotonic()

    found = observe(owners, silent)

    assert time.monotonic() - start < BRIEF + 1
    assert {each.status for each in found.values()} == {Status.UNKNOWN}
    assert found[owners[0]].why == f"{silent} does not answer"
