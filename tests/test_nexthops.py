"""Before all outbound mail must be encrypted, next hops are asked whether they can."""

import contextlib
import smtplib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from certbot_postfix.outbound import next_hops
from certbot_postfix.outbound.policy_map import PARAMETER
from certbot_postfix.postfix.configuration import Service
from certbot_postfix.postfix.instance import Postfix
from tests.lab import Authority, Certbot, PrivatePostfix, install_lineage
from tests.lab.machine import LOOPBACK, Ports, wait_until
from tests.test_baseline import Done, install, told
from tests.test_outbound_mail import RIGHT, STRIPPED, world
from tests.test_rules import configured

__all__ = ["world"]  # a fixture

NAME = "mx.example.org"
LEVEL = "smtp_tls_security_level"
HOP = "[127.0.0.1]:10025"
CHECK = "check_sender_access"
RELAY = "[relay.example.org]"


def client(name: str, command: str = "smtp", **overrides: str) -> Service:
    return Service(name, "unix", command, overrides, overrides)


def found(*services: Service, **explicit: str) -> list[tuple[str, str, str]]:
    """Return the next hops, who delivers to each, and what refers to it."""
    usual = {"default_transport": "smtp", "relay_transport": "relay"}
    clients = (client("smtp"), client("lmtp", "lmtp"), *services)
    configuration = configured({**usual, **explicit}, services=clients)
    hops = next_hops.find(configuration)
    return [(hop.name, hop.service.name, hop.cause) for hop in hops]


# Which next hops have main.cf's level


@pytest.mark.parametrize(
    ("explicit", "hops"),
    [
        ({}, []),
        (
            {"content_filter": f"smtp:{HOP}"},
            [(HOP, "smtp", "content_filter")],
        ),
        ({"relayhost": RELAY}, [(RELAY, "smtp", "relayhost")]),
        (
            {"relayhost": f"{RELAY}, [other.example.org]:587"},
            [
                (RELAY, "smtp", "relayhost"),
                ("[other.example.org]:587", "smtp", "relayhost"),
            ],
        ),
        (
            {"smtp_fallback_relay": RELAY},
            [(RELAY, "smtp", "smtp_fallback_relay")],
        ),
        (
            {"default_transport": f"smtp:{RELAY}"},
            [(RELAY, "smtp", "default_transport")],
        ),
        ({"local_transport": f"smtp:{HOP}"}, [(HOP, "smtp", "local_transport")]),
        ({"virtual_transport": f"smtp:{HOP}"}, [(HOP, "smtp", "virtual_transport")]),
        ({"virtual_transport": "lmtp:unix:private/dovecot"}, []),
        ({"mailbox_transport": f"lmtp:{HOP}"}, []),
        ({"content_filter": "spamassassin:"}, []),
        (
            {"transport_maps": f"inline:{{a.org=smtp:{HOP}, {{b.org = :{RELAY}}}}}"},
            [(HOP, "smtp", "transport_maps"), (RELAY, "smtp", "transport_maps")],
        ),
        (
            {"sender_dependent_relayhost_maps": f"static:{RELAY}"},
            [(RELAY, "smtp", "sender_dependent_relayhost_maps")],
        ),
        (
            {"smtpd_data_restrictions": f"{CHECK} static:{{FILTER smtp:{HOP}}}"},
            [(HOP, "smtp", "FILTER in smtpd_data_restrictions")],
        ),
    ],
)  # fmt: skip
def test_a_next_hop_that_is_configured_and_has_the_level_of_main_cf_is_found(
    explicit, hops
):
    assert found(**explicit) == hops


@pytest.mark.parametrize(
    ("service", "explicit", "hops"),
    [
        # amavisd-new/README.postfix has such a client
        (client("amavis"), {}, [(HOP, "amavis", "content_filter")]),
        (client("amavis", **{LEVEL: "may"}), {}, []),
        (client("amavis", "lmtp"), {}, []),
        (client("amavis", "pipe"), {}, []),
        (
            client("amavis", smtp_fallback_relay=RELAY),
            {"content_filter": ""},
            [(RELAY, "amavis", "smtp_fallback_relay")],
        ),
        (
            Service("pickup", "unix", "pickup", {"content_filter": f"smtp:{HOP}"}),
            {"content_filter": ""},
            [(HOP, "smtp", "content_filter")],
        ),
    ],
)
def test_what_master_cf_overrides_counts(service, explicit, hops):
    assert found(service, **{"content_filter": f"amavis:{HOP}", **explicit}) == hops


def test_tables_are_read_and_those_that_cannot_be_are_known(tmp_path):
    transport, checks = tmp_path / "transport", tmp_path / "checks"
    transport.write_text(
        f"# comment smtp:[no.example.org]\na.org smtp:{RELAY}\nb.org\n  :[b.org]\n"
    )
    checks.write_text(
        f"#/^X: y/ FILTER smtp:[no.example.org]\n/^X: x/ FILTER smtp:{HOP}\n"
    )
    explicit = {
        "transport_maps": f"proxy:hash:{transport}, ldap:/etc/postfix/ldap.cf,"
        f" texthash:{tmp_path}/missing",
        "mime_header_checks": f"regexp:{checks}",
    }

    assert [name for name, *_ in found(**explicit)] == [HOP, RELAY, "[b.org]"]
    assert next_hops.unread(configured(explicit)) == [
        "ldap:/etc/postfix/ldap.cf in transport_maps",
        f"texthash:{tmp_path}/missing in transport_maps",
    ]


@pytest.mark.parametrize(
    ("nexthop", "why"),
    [
        ("[127.0.0.1]:25:25", "its name is not understood"),
        ("[127.0.0.1]:submissiom", "the port submissiom is not known"),
        ("[127.0.0.1]:65536", "the port 65536 is not known"),
    ],
)
def test_a_next_hop_that_is_written_wrongly_is_not_asked(nexthop, why):
    explicit = {"relayhost": nexthop, "default_transport": "smtp"}
    configuration = configured(explicit, services=(client("smtp"),))

    (note,) = next_hops.refuse_without_tls(Postfix(Path("/nowhere")), configuration)

    assert note.startswith(f"{nexthop} (relayhost): it was not asked: {why}; ")


def test_a_next_hop_that_a_table_might_exempt_is_not_asked(tmp_path):
    table = f"texthash:{tmp_path}/missing"
    explicit = {"relayhost": HOP, "default_transport": "smtp"}
    configuration = configured(
        {**explicit, PARAMETER: table}, services=(client("smtp"),)
    )

    (note,) = next_hops.refuse_without_tls(Postfix(tmp_path), configuration)

    assert note.startswith(f"{HOP} (relayhost): {table} does not answer")
    assert note.endswith(f"get no mail with {LEVEL} = encrypt")


# What they answer: a real Postfix, and itself behind a content filter


@pytest.fixture
def certbot(base: Path, authority: Authority) -> Certbot:
    certbot = Certbot(base)
    install_lineage(certbot.config_dir, NAME, authority.issue(NAME))
    return certbot


@pytest.fixture
def port() -> Iterator[int]:
    ports = Ports(1)
    yield ports.numbers[0]
    ports.release()


@pytest.fixture
def filtered(postfix: PrivatePostfix, port: int) -> PrivatePostfix:
    """A Postfix whose mail goes through a content filter without TLS, and back."""
    back = f"{LOOPBACK}:{port} inet n - n - - smtpd\n  -o content_filter=\n"
    with postfix.master_cf.open("a") as file:
        file.write(f"{back}  -o smtpd_tls_security_level=none\n")
    postfix.set(content_filter=f"smtp:[{LOOPBACK}]:{port}")
    postfix.reload()
    wait_until(lambda: answers(port), "the filter answers")
    return postfix


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), closing(connected(port)) as connection:
        return connection.recv(3) == b"220"
    return False


def connected(port: int) -> socket.socket:
    return socket.create_connection((LOOPBACK, port), 5)


def encrypt(certbot: Certbot, postfix: PrivatePostfix) -> Done:
    return install(certbot, postfix, "--postfix-client-level", "encrypt")


def delivered(postfix: PrivatePostfix, port: int) -> bool:
    """Whether a message goes through the filter at *port*."""
    postfix.reload()
    count = postfix.log().count("status=")
    with smtplib.SMTP(LOOPBACK, postfix.ports["smtp"]) as session:
        session.sendmail("me@example.org", "root@localhost", "Subject: x\n\nx\n")
    wait_until(lambda: postfix.log().count("status=") > count, "it is tried")
    relayed = f"relay={LOOPBACK}[{LOOPBACK}]:{port}"
    return any(
        relayed in line and "status=sent" in line for line in postfix.log().splitlines()
    )


@pytest.mark.postfix
def test_a_filter_without_tls_keeps_the_level_from_being_raised(
    filtered, certbot, port
):
    before, hop = filtered.snapshot(), f"[{LOOPBACK}]:{port}"

    done = encrypt(certbot, filtered)

    assert done.returncode == 1
    assert f"{hop} (content_filter): STARTTLS is not offered" in told(done)
    assert f"an entry `{hop} may` in smtp_tls_policy_maps" in told(done)
    assert f"`-o {LEVEL}=may` for smtp/unix in master.cf" in told(done)
    assert filtered.snapshot() == before
    assert not certbot.bundle(NAME).exists()
    assert delivered(filtered, port)


def by_policy(postfix: PrivatePostfix, port: int) -> None:
    (postfix.config_dir / "policies").write_text(f"[{LOOPBACK}]:{port} may\n")
    postfix.set(smtp_tls_policy_maps=f"texthash:{postfix.config_dir}/policies")


def in_master_cf(postfix: PrivatePostfix, port: int) -> None:
    postfix.postconf("-P", f"smtp/unix/{LEVEL}=may")
    postfix.settle()


def with_tls(postfix: PrivatePostfix, port: int) -> None:
    postfix.postconf("-P", f"{LOOPBACK}:{port}/inet/smtpd_tls_security_level=may")
    postfix.reload()
    wait_until(lambda: starts_tls(port), "the filter offers TLS")


def starts_tls(port: int) -> bool:
    with (
        contextlib.suppress(OSError, smtplib.SMTPException),
        smtplib.SMTP(LOOPBACK, port) as session,
    ):
        session.ehlo()
        return session.has_extn("starttls")
    return False


@pytest.mark.postfix
@pytest.mark.parametrize("how", [by_policy, in_master_cf, with_tls])
def test_a_filter_that_is_exempt_or_has_tls_still_gets_mail_at_the_level_encrypt(
    filtered, certbot, port, how
):
    how(filtered, port)

    done = encrypt(certbot, filtered)

    assert done.returncode == 0, done.stderr
    assert filtered.postconf("-h", LEVEL).strip() == "encrypt"
    assert "(content_filter)" not in told(done)
    assert delivered(filtered, port)


@pytest.mark.postfix
def test_a_next_hop_that_does_not_answer_is_a_warning(postfix, certbot, port):
    postfix.set(content_filter=f"smtp:[{LOOPBACK}]:{port}")

    done = encrypt(certbot, postfix)

    assert done.returncode == 0, done.stderr
    assert (
        f"[{LOOPBACK}]:{port} (content_filter): it did not answer: Connection refused"
        in told(done)
    )
    assert postfix.postconf("-h", LEVEL).strip() == "encrypt"


@pytest.mark.postfix
def test_next_hops_that_are_silent_or_never_end_are_given_up_together(stopped_postfix):
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(4)
        ]
        hops = [f"[{LOOPBACK}]:{one.getsockname()[1]}" for one in servers]
        dripping = threading.Thread(target=drip, args=(servers[0],), daemon=True)
        dripping.start()
        stopped_postfix.set(relayhost=", ".join(hops), default_transport="smtp")
        found = Postfix(stopped_postfix.config_dir)
        start = time.monotonic()

        said = next_hops.refuse_without_tls(found, found.read())
        seconds = time.monotonic() - start

    assert [line.partition(";")[0] for line in said] == [
        f"{hop} (relayhost): it did not answer: timed out" for hop in hops
    ]
    assert seconds < 2 * next_hops.SECONDS


def drip(server: socket.socket) -> None:
    """Begin a greeting that never ends."""
    with contextlib.suppress(OSError):
        client, _ = server.accept()
        with client:
            while True:
                client.sendall(b"220-x\r\n")
                time.sleep(0.1)


@pytest.mark.postfix
def test_a_relay_without_brackets_is_asked_where_its_mx_record_says(world):
    world.network.serve("strip", RIGHT, address=STRIPPED, port=25)
    world.network.publish("relay.insecure", "@ MX 10 mx.relay.insecure.")
    world.network.publish("mx.relay.insecure", f"@ A {STRIPPED}")
    world.sender.set(relayhost="relay.insecure")
    before = world.sender.snapshot()

    argv = world.certbot.argv(
        *("install", "-i", "postfix", "--cert-name", "sender.test"),
        *("--postfix-config-dir", str(world.sender.config_dir)),
        *("--postfix-client-level", "encrypt"),
    )
    done = world.network.run(*argv, env=world.certbot.environment)

    assert done.returncode == 1
    assert "relay.insecure (relayhost): STARTTLS is not offered" in told(done)
    assert "for smtp/unix and relay/unix in master.cf" in told(done)
    assert world.sender.snapshot() == before


@pytest.mark.postfix
@pytest.mark.parametrize(("level", "asked"), [("may", 0), ("encrypt", 1)])
def test_next_hops_are_asked_only_where_the_level_becomes_mandatory(
    postfix, certbot, level, asked
):
    count: list[object] = []
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    count.append(client)
                    with client:
                        client.sendall(b"421 later\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        hop = f"[{LOOPBACK}]:{server.getsockname()[1]}"
        postfix.set(relayhost=hop, default_transport="smtp")

        done = install(certbot, postfix, "--postfix-client-level", level)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()

    assert done.returncode == 0, done.stderr
    assert len(count) == asked
    assert (f"{hop} (relayhost): it did not answer: 421 later" in told(done)) == asked
