"""What services present is seen in time, and what could not be seen is said."""

import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from certbot_postfix.postfix.configuration import CHAIN, SNI_MAPS, Service
from certbot_postfix.status.facts import Facts, File, Key, SniMap
from certbot_postfix.status.probe_services import PARALLEL, probe_services
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.tls.certificates import Certificate
from tests.lab import Authority, Issued
from tests.lab.machine import LOOPBACK
from tests.lab.pki import generate_key
from tests.test_probe import Server, Session, Talk, context, serve, start_tls
from tests.test_status import BUNDLES, HOST, NOW, certificate, configured

__all__ = ["context", "serve"]

PEM = Path("/x.pem")

Serve = Callable[[Talk], Server]
Context = Callable[[Issued], ssl.SSLContext]


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue(HOST)


@pytest.fixture(scope="module")
def other(authority: Authority) -> Issued:
    return authority.issue(HOST)


def known(*ports: int, leaves: tuple[Certificate, ...] = (), **explicit: str) -> Facts:
    """Return facts about services at *ports*, which should present *leaves*."""
    services = [Service(f"{LOOPBACK}:{port}", "inet", "smtpd", {}) for port in ports]
    files = {
        Path(f"/{leaf.key_type}.pem"): (Key(leaf.spki), leaf) for leaf in leaves
    } or {PEM: ()}
    return Facts(
        configured({CHAIN: ", ".join(map(str, files)), **explicit}, *services),
        NOW,
        BUNDLES,
        files={path: File(path, blocks) for path, blocks in files.items()},
    )


def probed(facts: Facts, seconds: float = 10) -> Facts:
    return probe_services(facts, Deadline(seconds))


# Strangers, whom postscreen(8) does not pass to smtpd at once


def screened(server: Server) -> Facts:
    facts = known(
        server.server_address[1],
        mynetworks=f"{LOOPBACK}/32",
        postscreen_tls_security_level="may",
        tlsproxy_tls_chain_files=str(PEM),
    )
    (service,) = facts.configuration.services
    services = (
        replace(service, command="postscreen"),
        Service("smtpd", "pass", "smtpd", {}),
        Service("tlsproxy", "unix", "tlsproxy", {}),
    )
    return replace(facts, configuration=replace(facts.configuration, services=services))


def for_strangers(usual: Talk, to_strangers: Talk) -> Talk:
    return lambda session: (
        usual if session.client_address[0] == LOOPBACK else to_strangers
    )(session)


def test_another_certificate_for_strangers_is_seen(serve, context, issued, other):
    server = serve(for_strangers(start_tls(context(issued)), start_tls(context(other))))

    found = probed(screened(server))

    assert [
        (bool(handshake.endpoint.source), handshake.leaf)
        for handshake in found.handshakes
    ] == [(False, certificate(issued)), (True, certificate(other))]
    assert found.skipped == ()


def test_strangers_who_get_the_same_certificate_are_not_listed(serve, context, issued):
    found = probed(screened(serve(start_tls(context(issued)))))

    assert [handshake.endpoint.source for handshake in found.handshakes] == [""]
    assert found.skipped == ()


def test_that_postscreen_rejects_a_stranger_is_no_fault_of_tls(serve, context, issued):
    def reject(session: Session) -> None:
        session.reply(b"521 5.7.1 Blocked by DNSBL")

    server = serve(for_strangers(start_tls(context(issued)), reject))

    found = probed(screened(server))

    assert [handshake.endpoint.source for handshake in found.handshakes] == [""]
    (skipped,) = found.skipped
    assert "from 127." in skipped.object
    assert skipped.reason == "521 5.7.1 Blocked by DNSBL"


# Types of key


@pytest.fixture(scope="module")
def of_both_types(authority: Authority, issued: Issued) -> tuple[Certificate, ...]:
    rsa = authority.issue(HOST, key=generate_key("rsa"))
    return certificate(issued), certificate(rsa)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_that_is_not_presented_by_its_type_is_not_checked(
    serve, context, issued, of_both_types, version
):
    only = context(issued)  # which is presented without being requested, too
    only.minimum_version = version

    found = probed(
        known(serve(start_tls(only)).server_address[1], leaves=of_both_types)
    )

    assert [handshake.leaf for handshake in found.handshakes] == [certificate(issued)]
    (skipped,) = found.skipped
    assert skipped.object.startswith("the RSA certificate of ")
    assert skipped.reason.startswith(
        "not served to TLS 1.2 clients that support no other: "
    )


def test_a_service_without_tls_is_one_failure_and_not_one_of_each_type(
    serve, of_both_types
):
    server = serve(lambda session: session.smtp(b"454 4.7.0 TLS not available"))

    found = probed(known(server.server_address[1], leaves=of_both_types))

    assert [handshake.failure for handshake in found.handshakes] == [
        "454 4.7.0 TLS not available"
    ]
    assert found.skipped == ()


# Time


def test_a_service_for_which_there_was_no_time_has_not_answered():
    """Each attempt takes a quarter of the time, and so many are side by side."""
    with ExitStack() as stack:
        mute = [
            stack.enter_context(socket.create_server((LOOPBACK, 0)))
            for _ in range(3 * PARALLEL)
        ]
        ports = [server.getsockname()[1] for server in mute]

        found = probed(known(*ports), seconds=1)

    failures = [handshake.failure for handshake in found.handshakes]
    assert len(failures) == 3 * PARALLEL
    assert set(failures) == {"timed out", "no answer in time"}
    assert not any(handshake.alive for handshake in found.handshakes)


def test_names_for_which_there_was_no_time_are_counted(serve, context, issued):
    choosy = context(issued)

    def talk(session: Session) -> None:
        """Present the certificate, but to no client that requests a name."""
        session.smtp()
        hello = session.request.recv(10_000, socket.MSG_PEEK)
        if b"example.net" in hello:
            session.rfile.read()
        else:
            with session.tls(choosy) as connection:
                connection.recv(100)

    names = {f"n{number}.example.net": (PEM,) for number in range(3 * PARALLEL)}
    table = Path("/etc/postfix/sni")
    facts = known(serve(talk).server_address[1], **{SNI_MAPS: f"texthash:{table}"})
    facts = replace(facts, sni_maps=(SniMap("texthash", table, names, File(table)),))

    found = probed(facts, seconds=2)

    (skipped,) = found.skipped
    late = int(skipped.object.split()[0])
    assert skipped.object == f"{late} handshakes for names"
    assert skipped.reason == "not requested within 2 seconds"
    in_time = [handshake for handshake in found.handshakes if handshake.server_name]
    assert len(in_time) + late == len(names)
    assert 0 < late < len(names)
