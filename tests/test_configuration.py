"""Where services listen, and by which names the server is known."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from certbot_postfix.errors import MisconfiguredError
from certbot_postfix.postfix.configuration import Configuration, Service, names, version
from certbot_postfix.postfix.services import (
    as_clients_see_it,
    bound,
    client_roots,
    endpoints,
    ports,
)
from certbot_postfix.tls.endpoints import Endpoint

DEFAULTS = {
    "mail_version": "3.7.11",
    "myhostname": "mx.example.org",
    "inet_interfaces": "all",
    "inet_protocols": "all",
    "known_tcp_ports": "lmtp=24, smtp=25, smtps=submissions=465, submission=587",
    "smtpd_tls_security_level": "may",
    "postscreen_tls_security_level": "may",
    "smtpd_tls_wrappermode": "no",
    "smtpd_upstream_proxy_protocol": "",
    "postscreen_upstream_proxy_protocol": "",
}


def configured(*services: Service, **values: str) -> Configuration:
    return Configuration(
        Path("/etc/postfix"), DEFAULTS, values, {**DEFAULTS, **values}, services
    )


def smtpd(name: str = "smtp", **overrides: str) -> Service:
    return Service(name, "inet", "smtpd", overrides)


def addresses(configuration: Configuration) -> list[tuple[str, int]]:
    return [(each.host, each.port) for each in endpoints(configuration)[0]]


@pytest.mark.parametrize(
    ("content_filter", "levels"),
    [
        ("smtp:[127.0.0.1]:10025", ["may", "none"]),
        ("amavis:[127.0.0.1]:10025", ["may"]),
    ],
)
def test_the_client_of_a_content_filter_does_not_count_unless_it_is_the_usual_one(
    content_filter, levels
):
    usual, amavis = (
        Service(name, "unix", "smtp", {"smtp_tls_security_level": level})
        for name, level in [("smtp", "may"), ("amavis", "none")]
    )

    found = as_clients_see_it(
        configured(
            usual, amavis, default_transport="smtp", content_filter=content_filter
        )
    )

    assert [each.value("smtp_tls_security_level") for each in found] == levels


BOTH = ["127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("smtp", [(host, 25) for host in BOTH], id="smtp"),
        pytest.param("smtps", [(host, 465) for host in BOTH], id="smtps"),
        pytest.param("submissions", [(host, 465) for host in BOTH], id="submissions"),
        pytest.param("submission", [(host, 587) for host in BOTH], id="submission"),
        pytest.param("2525", [(host, 2525) for host in BOTH], id="a number"),
        pytest.param("192.0.2.1:25", [("192.0.2.1", 25)], id="IPv4"),
        pytest.param("192.0.2.1:smtps", [("192.0.2.1", 465)], id="IPv4 and a name"),
        pytest.param("[2001:db8::1]:465", [("2001:db8::1", 465)], id="IPv6"),
        pytest.param("localhost:10025", [("localhost", 10025)], id="a host name"),
    ],
)
def test_a_service_listens_where_master_cf_says(name, expected):
    assert addresses(configured(smtpd(name))) == expected


@pytest.mark.parametrize(
    ("chroot", "release", "level", "root"),
    [
        ("y", "3.7.11", "3.6", "/queue"),
        ("n", "2.11.0", "", "/"),
        ("-", "3.7.11", "3.6", "/"),
        ("-", "3.7.11", "0", "/queue"),
        ("-", "2.11.0", "", "/queue"),
    ],
)
def test_a_client_is_in_the_chroot_that_master_cf_or_the_release_says(
    chroot, release, level, root
):
    """Postfix 3.0 made it "no" without the entry; an older level keeps it."""
    client = Service("smtp", "unix", "smtp", {}, chroot=chroot)
    configuration = configured(
        client, queue_directory="/queue", compatibility_level=level
    )
    defaults = {**configuration.defaults, "mail_version": release}

    assert client_roots(replace(configuration, defaults=defaults)) == [Path(root)]


def test_a_name_may_be_one_of_etc_services():
    try:
        port = socket.getservbyname("imap2", "tcp")
    except OSError:
        pytest.skip("this machine has no /etc/services")

    assert addresses(configured(smtpd("127.0.0.1:imap2"))) == [("127.0.0.1", port)]


@pytest.mark.parametrize("known", ["", "smtp=2525"])
def test_a_name_is_looked_up_in_the_table_of_postfix_first(known):
    port = 2525 if known else 25

    configuration = configured(smtpd("127.0.0.1:smtp"), known_tcp_ports=known)

    assert addresses(configuration) == [("127.0.0.1", port)]


def test_a_name_that_nobody_knows_is_told():
    with pytest.raises(
        MisconfiguredError, match="unknown service name unheard-of/inet"
    ):
        endpoints(configured(smtpd("unheard-of")))
    assert ports(configured(smtpd(), smtpd("unheard-of"))) == set()


@pytest.mark.parametrize(
    ("interfaces", "protocols", "hosts"),
    [
        ("all", "all", BOTH),
        ("all", "ipv4", ["127.0.0.1"]),
        ("all", "ipv6", ["::1"]),
        ("all", "ipv4, ipv6", BOTH),
        ("loopback-only", "all", BOTH),
        ("loopback-only", "ipv4", ["127.0.0.1"]),
        ("192.0.2.1, [2001:db8::1]", "all", ["192.0.2.1", "2001:db8::1"]),
        ("192.0.2.1 2001:db8::1", "ipv6", ["2001:db8::1"]),
        ("mx.example.org, localhost", "ipv4", ["mx.example.org", "localhost"]),
    ],
)
def test_a_service_without_a_host_listens_on_all_interfaces(
    interfaces, protocols, hosts
):
    configuration = configured(
        smtpd("25"), inet_interfaces=interfaces, inet_protocols=protocols
    )

    assert addresses(configuration) == [(host, 25) for host in hosts]


@pytest.mark.parametrize(
    ("service", "implicit"),
    [
        pytest.param(smtpd("smtps"), False, id="not by its name"),
        pytest.param(smtpd("465"), False, id="not by its number"),
        pytest.param(smtpd("25", smtpd_tls_wrappermode="yes"), True, id="by override"),
        pytest.param(smtpd("25", smtpd_tls_wrappermode="YES"), True, id="in capitals"),
        pytest.param(smtpd("465", smtpd_tls_wrappermode="no"), False, id="turned off"),
    ],
)
def test_tls_is_implicit_only_where_it_is_configured(service, implicit):
    found, _ = endpoints(configured(service))

    assert {each.implicit for each in found} == {implicit}


def test_tls_is_implicit_everywhere_if_main_cf_says_so():
    found, _ = endpoints(configured(smtpd(), smtpd_tls_wrappermode="yes"))

    assert {each.implicit for each in found} == {True}


@pytest.mark.parametrize(
    "service",
    [
        pytest.param(Service("smtp", "unix", "smtp", {}), id="the client"),
        pytest.param(Service("smtpd", "pass", "smtpd", {}), id="behind postscreen"),
        pytest.param(Service("smtpd", "unix", "smtpd", {}), id="on a local socket"),
        pytest.param(Service("628", "inet", "qmqpd", {}), id="another protocol"),
    ],
)
def test_what_is_no_mail_server_on_the_network_is_not_asked(service):
    assert endpoints(configured(service)) == ([], [])


@pytest.mark.parametrize("command", ["smtpd", "postscreen"])
@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        pytest.param(
            {"{}_tls_security_level": "none"}, "offers no TLS", id="level none"
        ),
        pytest.param({"{}_tls_security_level": ""}, "offers no TLS", id="no level"),
        pytest.param(
            {"smtpd_tls_chain_files": "/own.pem"},
            "has its own smtpd_tls_chain_files",
            id="its own chain",
        ),
        pytest.param(
            {"smtpd_tls_cert_file": "/own.pem"},
            "has its own smtpd_tls_cert_file",
            id="its own certificate",
        ),
        pytest.param(
            {"smtpd_tls_eccert_file": "/own.pem"},
            "has its own smtpd_tls_eccert_file",
            id="its own EC certificate",
        ),
        pytest.param(
            {"{}_upstream_proxy_protocol": "haproxy"},
            "expects a proxy before it",
            id="a proxy",
        ),
    ],
)
def test_what_cannot_be_proven_is_noted(command, overrides, note):
    own = {name.format(command): value for name, value in overrides.items()}
    service = Service("smtp", "inet", command, own)

    assert endpoints(configured(service)) == (
        [],
        [f"smtp/inet {note} and is not verified"],
    )


@pytest.mark.parametrize(
    ("service", "values"),
    [
        pytest.param(smtpd(smtpd_tls_security_level="encrypt"), {}, id="encrypt"),
        pytest.param(
            smtpd(),
            {"smtpd_tls_security_level": "", "smtpd_use_tls": "yes"},
            id="the older name of may",
        ),
        pytest.param(
            smtpd(),
            {"smtpd_tls_security_level": "", "smtpd_enforce_tls": "yes"},
            id="the older name of encrypt",
        ),
        pytest.param(
            smtpd(smtpd_tls_wrappermode="yes", smtpd_tls_security_level="none"),
            {},
            id="implicit TLS whatever the level",
        ),
        pytest.param(
            smtpd(smtpd_tls_cert_file="/ignored.pem"),
            {"smtpd_tls_chain_files": "/ours.pem"},
            id="an older certificate that Postfix ignores",
        ),
        pytest.param(smtpd(smtpd_tls_cert_file=""), {}, id="an empty certificate"),
        pytest.param(
            Service("smtp", "inet", "postscreen", {"smtpd_tls_security_level": "none"}),
            {},
            id="postscreen has its own level",
        ),
    ],
)
def test_what_serves_the_certificate_of_main_cf_is_asked(service, values):
    found, notes = endpoints(configured(service, **values))

    assert [each.host for each in found] == BOTH
    assert notes == []


def test_every_service_is_asked():
    configuration = configured(
        smtpd("192.0.2.1:25"),
        smtpd("192.0.2.1:465", smtpd_tls_wrappermode="yes"),
        Service("192.0.2.2:25", "inet", "postscreen", {}),
    )

    assert endpoints(configuration) == (
        [
            Endpoint("192.0.2.1:25/inet", "192.0.2.1", 25, implicit=False),
            Endpoint("192.0.2.1:465/inet", "192.0.2.1", 465, implicit=True),
            Endpoint("192.0.2.2:25/inet", "192.0.2.2", 25, implicit=False),
        ],
        [],
    )


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (Endpoint("smtp/inet", "::1", 25, False), "smtp ([::1]:25)"),
        (Endpoint("192.0.2.1:25/inet", "192.0.2.1", 25, False), "192.0.2.1:25"),
        (Endpoint("[::1]:465/inet", "::1", 465, True), "[::1]:465"),
    ],
)
def test_an_endpoint_says_service_and_address_once(endpoint, words):
    assert str(endpoint) == words


# What the master process binds


def test_the_master_binds_every_network_service_at_every_address():
    configuration = configured(
        smtpd("25"),
        smtpd("192.0.2.1:2525", smtpd_tls_security_level="none"),
        Service("628", "inet", "qmqpd", {}),
        Service("smtp", "unix", "smtp", {}),
    )

    assert bound(configuration) == [("", 25), ("192.0.2.1", 2525), ("", 628)]


def test_the_master_binds_the_interfaces_that_are_listed():
    configuration = configured(smtpd("25"), inet_interfaces="192.0.2.1, 192.0.2.2")

    assert bound(configuration) == [("192.0.2.1", 25), ("192.0.2.2", 25)]


# Names


@pytest.mark.parametrize(
    ("myhostname", "public"),
    [
        pytest.param("mx.example.org", True, id="public"),
        pytest.param("MX.Example.org", True, id="in any letters"),
        pytest.param("localhost", False, id="no domain"),
        pytest.param("mail", False, id="a single label"),
        pytest.param("vm.localdomain", False, id="localdomain"),
        pytest.param("mx.corp.internal", False, id="internal"),
        pytest.param("mx.LAN", False, id="LAN"),
        pytest.param("mx.test", False, id="for tests"),
        pytest.param("mx.home.arpa", False, id="home.arpa"),
        pytest.param("", False, id="none"),
    ],
)
def test_only_public_names_are_names(myhostname, public):
    found = names(configured(myhostname=myhostname))

    assert found == ({myhostname} if public else set())


def test_names_of_services_are_names_too():
    configuration = configured(
        smtpd("smtp"),
        smtpd("submission", myhostname="submit.example.org"),
        smtpd("10025", myhostname="filter.localdomain"),
    )

    assert names(configuration) == {"mx.example.org", "submit.example.org"}


# Versions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.7.11", (3, 7)),
        ("2.11.0", (2, 11)),
        ("3.12-20260821", (3, 12)),
        ("3.10.5-RC1", (3, 10)),
        ("", (0, 0)),
        ("unknown", (0, 0)),
    ],
)
def test_a_version_is_major_and_minor(text, expected):
    assert version(text) == expected


def test_a_parameter_that_this_version_does_not_know_is_empty():
    assert configured().value("smtpd_tls_from_the_future") == ""


def test_an_override_wins_even_if_it_is_empty():
    service = smtpd(smtpd_tls_security_level="")

    assert configured(service).value("smtpd_tls_security_level", service) == ""
