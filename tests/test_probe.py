"""A certificate counts as served once a fresh handshake showed it."""

import contextlib
import resource
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from certbot_postfix.errors import (
    AcceptedError,
    ProofError,
    RefusedError,
    UnansweredError,
)
from certbot_postfix.tls import baseline
from certbot_postfix.tls.certificates import Certificate
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.hello import Offer
from certbot_postfix.tls.probe import Question, look, without_tls
from certbot_postfix.tls.verification import clauses, verify
from tests.lab import Authority, Issued, pki

# What one client is told; the first argument is the connection.
Talk = Callable[["Session"], None]


class Session(socketserver.StreamRequestHandler):
    """Just enough SMTP to reach a TLS handshake."""

    wbufsize = 0

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client may leave when it likes
            self.server.talk(self)

    def reply(self, line: bytes) -> None:
        self.wfile.write(line + b"\r\n")

    def smtp(self, start_tls: bytes = b"220 go ahead") -> None:
        """Greet, answer EHLO, and answer STARTTLS with *start_tls*."""
        self.reply(b"220 mx.example.org ESMTP")
        assert self.rfile.readline().lower().startswith(b"ehlo")
        self.reply(b"250-mx.example.org\r\n250 STARTTLS")
        assert self.rfile.readline().strip() == b"STARTTLS"
        self.reply(start_tls)

    def tls(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        return context.wrap_socket(self.request, server_side=True)


class Server(socketserver.ThreadingTCPServer):
    """Talks to every client by *talk*."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, talk: Talk) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.talk = talk

    def question(self, name: str | None = None, *, implicit: bool = False) -> Question:
        host, port = self.server_address
        return Question(Endpoint(f"{host}:{port}/inet", host, port, implicit), name)


@pytest.fixture
def serve() -> Iterator[Callable[[Talk], Server]]:
    """Start servers, and stop them in the end."""
    with contextlib.ExitStack() as stack:

        def start(talk: Talk) -> Server:
            server = stack.enter_context(Server(talk))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield start


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue("mx.example.org")


@pytest.fixture(scope="module")
def other(authority: Authority) -> Issued:
    return authority.issue("other.example.org")


@pytest.fixture
def context(tmp_path: Path) -> Callable[[Issued], ssl.SSLContext]:
    """Make what a server needs in order to show a certificate."""

    def make(issued: Issued) -> ssl.SSLContext:
        bundle = tmp_path / "bundle.pem"
        bundle.write_bytes(issued.bundle_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.load_cert_chain(bundle)
        return context

    return make


def start_tls(context: ssl.SSLContext) -> Talk:
    """Show a certificate after STARTTLS, as smtp and submission do."""

    def talk(session: Session) -> None:
        session.smtp()
        with session.tls(context) as connection:
            if connection.recv(100).lower() == b"quit\r\n":
                connection.sendall(b"221 bye\r\n")

    return talk


def implicit_tls(context: ssl.SSLContext) -> Talk:
    """Show a certificate at once and greet then, as submissions does."""

    def talk(session: Session) -> None:
        with session.tls(context) as connection:
            connection.sendall(b"220 mx.example.org ESMTP\r\n")
            connection.recv(100)

    return talk


class InTurn:
    """Talks to each client by the next of *talks*, and to all others by the last."""

    def __init__(self, *talks: Talk) -> None:
        self.talks = list(talks)

    def __call__(self, session: Session) -> None:
        talk = self.talks.pop(0) if self.talks[1:] else self.talks[0]
        talk(session)


def leaf(question: Question, *, timeout: float) -> Certificate:
    """Return the leaf that is seen."""
    return look(question, timeout=timeout).leaf


def leaf_of(issued: Issued) -> Certificate:
    return Certificate.all_from_pem(issued.cert_pem)[0]


# One handshake


def test_the_certificate_is_seen_after_starttls(serve, context, issued):
    server = serve(start_tls(context(issued)))

    assert leaf(server.question(), timeout=10) == leaf_of(issued)


def test_the_certificate_is_seen_in_implicit_tls(serve, context, issued):
    server = serve(implicit_tls(context(issued)))

    assert leaf(server.question(implicit=True), timeout=10) == leaf_of(issued)


@pytest.mark.parametrize("talk", [start_tls, implicit_tls])
def test_the_certificate_of_the_name_that_is_asked_for_is_seen(
    serve, context, issued, other, talk
):
    default, by_name = context(issued), context(other)

    def choose(session: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name == "other.example.org":
            session.context = by_name

    default.sni_callback = choose
    server = serve(talk(default))
    implicit = talk is implicit_tls

    asked = server.question("other.example.org", implicit=implicit)
    assert leaf(asked, timeout=10) == leaf_of(other)
    assert leaf(server.question(implicit=implicit), timeout=10) == leaf_of(issued)


def test_a_name_with_a_sharp_s_is_requested_as_idna_2008_has_it(serve, context, issued):
    requested = []
    default = context(issued)
    default.sni_callback = lambda _, name, __: requested.append(name)
    server = serve(start_tls(default))

    leaf(server.question("straße.example"), timeout=10)

    assert requested == ["xn--strae-oqa.example"]


@pytest.mark.parametrize(
    "name", ["a..b", "ü..b", "a" * 64, "ü" * 64, ".a", "a\0", "\udcfc", "a\nb"]
)
def test_a_name_that_no_client_can_request_is_an_error_of_a_live_service(
    serve, context, issued, name
):
    server = serve(implicit_tls(context(issued)))

    with pytest.raises(ProofError, match="no client can request that name") as caught:
        leaf(server.question(name, implicit=True), timeout=10)

    assert not isinstance(caught.value, UnansweredError)


@pytest.fixture
def both(context, authority, tmp_path) -> tuple[ssl.SSLContext, dict[str, Issued]]:
    """Make what shows either of two certificates, and these by the type of key."""
    certificates = {
        kind: authority.issue("mx.example.org", key=pki.generate_key(kind))
        for kind in ("rsa", "ecdsa")
    }
    shows_both = context(certificates["rsa"])
    (tmp_path / "second.pem").write_bytes(certificates["ecdsa"].bundle_pem)
    shows_both.load_cert_chain(tmp_path / "second.pem")
    return shows_both, certificates


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_of_two_certificates_the_one_with_the_key_that_is_asked_for_is_seen(
    serve, both, kind
):
    shows_both, certificates = both
    question = serve(start_tls(shows_both)).question()

    seen = leaf(replace(question, key_type=kind.upper()), timeout=10)

    assert seen == leaf_of(certificates[kind])


def test_a_certificate_with_an_old_key_is_seen_as_well(serve, context, authority):
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    issued = authority.issue("mx.example.org", key=key)
    server = serve(start_tls(context(issued)))

    assert leaf(server.question(), timeout=10) == leaf_of(issued)


def test_a_certificate_behind_an_old_protocol_is_seen_as_well(serve, context, issued):
    old = context(issued)
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    server = serve(start_tls(old))

    assert leaf(server.question(), timeout=10) == leaf_of(issued)


def test_what_a_service_says_after_the_handshake_does_not_matter(
    serve, context, issued
):
    def talk(session: Session) -> None:
        with session.tls(context(issued)) as session.connection:
            session.connection.sendall(b"554 5.7.1 no client certificate\r\n")

    server = serve(talk)

    assert leaf(server.question(implicit=True), timeout=10) == leaf_of(issued)


def test_an_answer_without_a_certificate_is_none(serve):
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    anonymous.maximum_version = ssl.TLSVersion.TLSv1_2
    anonymous.set_ciphers("aNULL:@SECLEVEL=0")
    server = serve(start_tls(anonymous))

    with pytest.raises(ProofError, match="HANDSHAKE_FAILURE"):
        leaf(server.question(), timeout=10)


def refusing(answer: bytes) -> Talk:
    return lambda session: session.smtp(answer)


@pytest.mark.parametrize(
    ("talk", "told"),
    [
        pytest.param(
            refusing(b"502 5.5.1 Error: command not implemented"),
            "502 5.5.1 Error: command not implemented",
            id="no STARTTLS",
        ),
        pytest.param(
            refusing(b"454 4.7.0 TLS not available due to local problem"),
            "454 4.7.0 TLS not available due to local problem",
            id="TLS is disabled",
        ),
        pytest.param(
            lambda session: session.reply(b"HTTP/1.1 400 Bad Request"),
            "",
            id="another protocol",
        ),
        pytest.param(
            lambda session: session.reply(b"\xff\x00" * 100_000), "", id="garbage"
        ),
    ],
)
def test_a_service_that_does_not_start_tls_is_told_with_its_words(serve, talk, told):
    question = serve(talk).question()

    with pytest.raises(ProofError) as caught:
        leaf(question, timeout=10)

    assert caught.value.reason.startswith(told)
    assert "b'" not in caught.value.message


def rejecting(greeting: bytes) -> Talk:
    """Greet with *greeting*, and answer all commands as Postfix does then."""

    def talk(session: Session) -> None:
        session.reply(greeting)
        while session.rfile.readline():
            session.reply(b"503 5.7.0 Error: access denied for unknown[127.0.0.1]")

    return talk


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        pytest.param(
            rejecting(b"554 5.7.1 <unknown[127.0.0.1]>: Client host rejected"),
            "554 5.7.1 <unknown[127.0.0.1]>: Client host rejected",
            id="in its greeting",
        ),
        pytest.param(
            rejecting(b"220 mx.example.org ESMTP"),
            "503 5.7.0 Error: access denied for unknown[127.0.0.1]",
            id="after its greeting",
        ),
        pytest.param(
            rejecting(b"421-4.7.0 mx.example.org\r\n421 4.7.0 too many connections"),
            "421-4.7.0 mx.example.org 4.7.0 too many connections",
            id="in two lines",
        ),
        pytest.param(
            refusing(b"421 4.7.0 Error: too many new TLS sessions"),
            "421 4.7.0 Error: too many new TLS sessions",
            id="when it is asked for TLS",
        ),
    ],
)
def test_a_service_that_refuses_the_client_is_quoted(serve, talk, words):
    with pytest.raises(RefusedError) as caught:
        leaf(serve(talk).question(), timeout=10)

    assert caught.value.reason == words


def test_control_characters_of_a_service_reach_nobody(serve):
    with pytest.raises(RefusedError) as caught:
        leaf(serve(rejecting(b"554 \x1b[2J\x07no\x9b")).question(), timeout=10)

    assert caught.value.reason.isprintable()


def hangs_up(session: Session) -> None:
    """Say nothing at all."""


@pytest.mark.parametrize("implicit", [True, False])
def test_a_service_that_does_not_even_greet_is_unanswered(serve, implicit):
    question = serve(hangs_up).question(implicit=implicit)

    with pytest.raises(UnansweredError, match=r"closed|EOF"):
        leaf(question, timeout=10)


def test_a_service_that_refuses_tls_is_alive(serve):
    with pytest.raises(ProofError) as caught:
        leaf(serve(refusing(b"454 no TLS")).question(), timeout=10)

    assert not isinstance(caught.value, UnansweredError)


def test_a_failed_attempt_is_over_for_the_service_as_well(serve):
    over = threading.Event()

    def talk(session: Session) -> None:
        session.smtp(b"454 no TLS")
        session.rfile.read()
        over.set()

    with pytest.raises(ProofError) as caught:
        leaf(serve(talk).question(), timeout=10)

    assert over.wait(5), f"still connected after: {caught.value}"


def test_a_service_that_speaks_no_tls_at_once_is_told(serve):
    server = serve(lambda session: session.reply(b"220 mx.example.org ESMTP"))

    with pytest.raises(ProofError, match="SSL"):
        leaf(server.question(implicit=True), timeout=10)


def test_a_port_at_which_nobody_listens_is_told():
    with socket.create_server(("127.0.0.1", 0)) as free:
        host, port = free.getsockname()
    endpoint = Endpoint("smtp/inet", host, port, implicit=False)

    with pytest.raises(
        UnansweredError,
        match=rf"smtp \(127\.0\.0\.1:{port}\): Connection refused",
    ):
        leaf(Question(endpoint, None), timeout=10)


def silent(session: Session) -> None:
    session.rfile.read()  # until the client has had enough


def drips(session: Session) -> None:
    while True:  # until the client has had enough
        session.wfile.write(b"2")
        time.sleep(0.05)


def never_ends(session: Session) -> None:
    while True:
        session.wfile.write(b"220-" + 500 * b"x" + b"\r\n")


def never_ends_its_line(session: Session) -> None:
    while True:
        session.wfile.write(10_000 * b"2")


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(drips, id="a service that sends a byte from time to time"),
        pytest.param(never_ends, id="a greeting that never ends"),
        pytest.param(never_ends_its_line, id="a line that never ends"),
    ],
)
def test_the_whole_dialogue_has_one_deadline_and_a_limit(serve, talk):
    question, start = serve(talk).question(), time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(ProofError):
        leaf(question, timeout=1)

    assert time.monotonic() - start < 3
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert kilobytes < 50_000


@pytest.mark.parametrize("implicit", [True, False])
def test_a_service_that_never_answers_is_given_up(serve, implicit):
    server = serve(silent)
    start = time.monotonic()

    with pytest.raises(UnansweredError, match="timed out"):
        leaf(server.question(implicit=implicit), timeout=0.2)

    assert time.monotonic() - start < 5


# Verification


def expecting(expected: list[Certificate], questions: list[Question]) -> list[Question]:
    """Return *questions*, each to be answered by one of *expected*."""
    return [replace(question, expected=tuple(expected)) for question in questions]


def test_what_is_served_is_verified(serve, context, issued, other):
    servers = [serve(start_tls(context(each))) for each in (issued, other)]
    questions = [server.question() for server in servers]

    assert (
        verify(expecting([leaf_of(issued), leaf_of(other)], questions), timeout=10)
        == []
    )


def test_it_is_asked_until_the_certificate_has_changed(serve, context, issued, other):
    old, new = start_tls(context(other)), start_tls(context(issued))
    talk = InTurn(old, old, new)

    assert (
        verify(expecting([leaf_of(issued)], [serve(talk).question()]), timeout=30) == []
    )

    assert talk.talks == [new]


def test_it_is_asked_until_the_service_is_there(serve, context, issued):
    dead, alive = refusing(b"454 no TLS"), start_tls(context(issued))
    talk = InTurn(dead, dead, alive)

    assert (
        verify(expecting([leaf_of(issued)], [serve(talk).question()]), timeout=30) == []
    )

    assert talk.talks == [alive]


def failing(questions: list[Question], *, timeout: float) -> list[str]:
    """Return what is said of those that were not verified."""
    return clauses(verify(questions, timeout=timeout))


def test_another_certificate_is_reported_with_the_one_that_was_expected(
    serve, context, issued, other
):
    good, bad = serve(start_tls(context(issued))), serve(start_tls(context(other)))
    questions = [good.question(), bad.question("mx.example.org")]

    words = failing(expecting([leaf_of(issued)], questions), timeout=0.3)

    presented = f"presents {leaf_of(other)} instead of {leaf_of(issued)}"
    assert words == [
        f"{bad.question().endpoint} {presented} to clients requesting mx.example.org"
    ]


def test_every_service_that_fails_is_reported(serve, context, issued, other):
    wrong, dead = serve(start_tls(context(other))), serve(hangs_up)

    wanted = expecting([leaf_of(issued)], [wrong.question(), dead.question()])
    words = failing(wanted, timeout=0)

    assert words == [
        f"{wrong.question()} presents {leaf_of(other)} instead of {leaf_of(issued)}",
        f"{dead.question()} did not answer: the connection was closed",
    ]


def test_services_with_equal_answers_are_one_message(serve, issued):
    def named(service: str, talk: Talk) -> Question:
        question = serve(talk).question()
        return replace(question, endpoint=replace(question.endpoint, service=service))

    questions = [
        named("smtp/inet", rejecting(b"503 5.7.0 Error: access denied")),
        named("smtp/inet", rejecting(b"503 5.7.0 Error: access denied")),
        named("submission/inet", rejecting(b"503 5.7.0 Error: access denied")),
    ]

    first, second, third = (question.endpoint.address for question in questions)
    where = f"smtp ({first}, {second}) and submission ({third})"
    assert failing(expecting([leaf_of(issued)], questions), timeout=0) == [
        f"{where} rejected the test connection: 503 5.7.0 Error: access denied"
    ]


def test_of_many_names_that_fail_alike_some_are_told(serve, context, issued, other):
    server = serve(start_tls(context(other)))
    questions = [server.question(f"{letter}.example.org") for letter in "abcdef"]

    (words,) = failing(expecting([leaf_of(issued)], questions), timeout=0)

    assert words.endswith(
        " to clients requesting a.example.org, b.example.org, c.example.org and 3 more"
    )


def test_one_that_hangs_keeps_nobody_from_another(serve, context, issued):
    hanging = serve(silent)
    questions = [hanging.question(f"{number}.example.org") for number in range(20)]
    questions.append(serve(start_tls(context(issued))).question())

    assert failing(questions, timeout=0.1) == [
        f"{hanging.question()} did not answer: timed out"
    ]


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_of_two_certificates_either_is_verified(serve, both, kind):
    shows_both, certificates = both
    question = serve(start_tls(shows_both)).question()

    assert verify(expecting([leaf_of(certificates[kind])], [question]), timeout=0) == []


@pytest.mark.parametrize("talk", [start_tls, implicit_tls])
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_of_two_certificates_behind_nothing_but_tls_1_3_either_is_verified(
    serve, both, kind, talk
):
    shows_both, certificates = both
    shows_both.minimum_version = ssl.TLSVersion.TLSv1_3
    question = serve(talk(shows_both)).question(implicit=talk is implicit_tls)

    assert verify(expecting([leaf_of(certificates[kind])], [question]), timeout=0) == []


def test_the_type_of_key_is_chosen_for_the_name_that_is_asked_for(
    serve, context, both, issued
):
    shows_both, certificates = both
    shows_both.minimum_version = ssl.TLSVersion.TLSv1_3
    default = context(issued)

    def choose(session: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name == "mx.example.org":
            session.context = shows_both

    default.sni_callback = choose
    question = serve(start_tls(default)).question("mx.example.org")

    for each in certificates.values():
        assert verify(expecting([leaf_of(each)], [question]), timeout=0) == []


def test_a_server_without_the_type_of_key_that_is_wanted_is_told(
    serve, context, authority
):
    ecdsa, rsa = (
        authority.issue("mx.example.org", key=pki.generate_key(kind))
        for kind in ("ecdsa", "rsa")
    )
    question = serve(start_tls(context(ecdsa))).question()

    (words,) = failing(expecting([leaf_of(rsa)], [question]), timeout=0)
    assert f"presents {leaf_of(ecdsa)} instead of" in words


def test_any_certificate_will_do_if_none_is_expected(serve, context, issued):
    assert verify([serve(start_tls(context(issued))).question()], timeout=10) == []


def test_services_that_never_answer_are_waited_for_side_by_side(serve, issued):
    questions = [serve(silent).question() for _ in range(8)]
    start = time.monotonic()

    assert len(verify(expecting([leaf_of(issued)], questions), timeout=0.1)) == 8

    assert time.monotonic() - start < 5


def test_nothing_asked_is_verified_at_once():
    assert verify([], timeout=0) == []


# Before a change


def test_each_endpoint_has_an_answer_of_its_own_before_a_change(serve, context, issued):
    talks = {
        "well": start_tls(context(issued)),
        "without TLS": refusing(b"454 4.7.0 TLS not available"),
        "refusing": rejecting(b"554 5.7.1 Client host rejected"),
        "dead": hangs_up,
    }
    questions = {what: serve(talk).question() for what, talk in talks.items()}
    plain = replace(serve(refusing(b"502 no")).question(), tls=False)

    before = baseline.take([*questions.values(), plain], timeout=5)

    known = {
        what: before.failures[str(each.endpoint)] for what, each in questions.items()
    }
    assert {what: type(error) for what, error in known.items()} == {
        "well": type(None),
        "without TLS": ProofError,
        "refusing": RefusedError,
        "dead": UnansweredError,
    }
    assert before.well(plain.endpoint)


@pytest.mark.parametrize("openssl", ["present", "missing"])
def test_a_server_without_a_type_of_key_that_openssl_alone_requests_is_told(
    serve, context, authority, issued, tmp_path, monkeypatch, openssl
):
    """No cipher suite stands for EdDSA; and openssl(1) need not be installed."""
    if openssl == "missing":
        monkeypatch.setenv("PATH", str(tmp_path))
    key = ed25519.Ed25519PrivateKey.generate()
    wanted = leaf_of(authority.issue("mx.example.org", key=key))
    question = serve(start_tls(context(issued))).question("mx.example.org")

    (words,) = failing(expecting([wanted], [question]), timeout=0)

    assert f"presents {leaf_of(issued)} instead of {wanted}" in words


# Whether a client that insists on TLS sends mail there


def not_knowing_ehlo(session: Session) -> None:
    session.reply(b"220 mx.example.org SMTP")
    session.rfile.readline()
    session.reply(b"502 5.5.1 command not implemented")


def without_starttls(session: Session) -> None:
    session.reply(b"220 mx.example.org ESMTP")
    session.rfile.readline()
    session.reply(b"250 mx.example.org")
    session.rfile.readline()


def garbling(session: Session) -> None:
    session.smtp()
    session.reply(b"220 2.0.0 go ahead, but in clear text")
    session.rfile.read(1)


@pytest.mark.parametrize(
    ("talk", "why"),
    [
        pytest.param(without_starttls, "STARTTLS is not offered", id="no STARTTLS"),
        pytest.param(
            not_knowing_ehlo, "502 5.5.1 command not implemented", id="no EHLO"
        ),
        pytest.param(refusing(b"454 4.7.0 no TLS"), "454 4.7.0 no TLS", id="not now"),
        pytest.param(garbling, "[SSL", id="no handshake"),
    ],
)
def test_why_a_hop_takes_no_mail_with_tls_is_said(serve, talk, why):
    assert without_tls(serve(talk).question(), timeout=10).startswith(why)


@pytest.mark.parametrize("talk", [start_tls, implicit_tls])
def test_a_hop_takes_mail_with_tls_whatever_its_certificate(
    serve, context, issued, talk
):
    question = serve(talk(context(issued))).question(implicit=talk is implicit_tls)

    assert without_tls(question, timeout=10) == ""


def test_of_a_hop_that_rejects_this_machine_nothing_is_known(serve):
    server = serve(rejecting(b"554 5.7.1 no service here"))

    with pytest.raises(RefusedError, match=r"554 5\.7\.1 no service here"):
        without_tls(server.question(), timeout=10)


# Offers that are to be refused


def offered(server: Server, offer: Offer, *, timeout: float = 0) -> list[ProofError]:
    questions = [replace(server.question(), offer=offer)]
    return [each.error for each in verify(questions, timeout=timeout)]


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
@pytest.mark.parametrize(
    ("offer", "told"),
    [
        pytest.param(Offer.OLD_PROTOCOLS, "TLS 1.1 with ECDHE-{}-AES", id="old"),
        pytest.param(Offer.WEAK_CIPHERS, "TLS 1.2 with ", id="ciphers"),
        pytest.param(
            Offer.FINITE_FIELDS, "TLS 1.3 with a finite-field group", id="groups"
        ),
        pytest.param(Offer.WEAK_SIGNATURES, "and a signature with SHA-1", id="SHA-1"),
    ],
)
def test_what_a_server_accepts_of_an_offer_is_reported(serve, both, kind, offer, told):
    lax, _ = both
    lax.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    lax.set_ciphers(f"a{kind.upper()}:@SECLEVEL=0")
    server = serve(start_tls(lax))

    (error,) = offered(server, offer)

    assert isinstance(error, AcceptedError)
    assert told.format(kind.upper()) in error.reason
    assert clauses(verify([replace(server.question(), offer=offer)], timeout=0)) == [
        f"{server.question().endpoint.address} accepts {error.reason}"
    ]


@pytest.mark.parametrize("offer", Offer)
def test_a_server_that_refuses_an_offer_is_well(serve, context, issued, offer):
    strict = context(issued)
    strict.minimum_version = ssl.TLSVersion.TLSv1_2
    strict.set_ciphers("ECDHE+AESGCM:@SECLEVEL=3")  # too high for SHA-224
    strict.set_ecdh_curve("prime256v1")  # and no other group

    assert offered(serve(start_tls(strict)), offer) == []


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(
            refusing(b"454 4.7.0 TLS not available due to local problem"), id="no TLS"
        ),
        pytest.param(lambda session: session.smtp(), id="no answer"),
        pytest.param(
            lambda session: (session.smtp(), session.reply(b"220 what?")), id="no TLS "
        ),
        pytest.param(
            lambda session: (session.smtp(), session.reply(b"\x16\x03\x03\x00\x2a")),
            id="less than it says",
        ),
        pytest.param(
            lambda session: (
                session.smtp(),
                session.reply(b"\x16\x03\x03\x00\x2a" + bytes(42)),
            ),
            id="no ServerHello",
        ),
        pytest.param(
            lambda session: (
                session.smtp(),
                session.reply(b"\x16\x03\x03\x00\x26" + bytes(38)),
            ),
            id="ServerHello that ends after its random bytes",
        ),
        pytest.param(hangs_up, id="no greeting"),
    ],
)
def test_what_is_no_alert_is_no_refusal(serve, talk):
    (error,) = offered(serve(talk), Offer.WEAK_CIPHERS)

    assert not isinstance(error, AcceptedError)


def test_an_offer_is_repeated_until_it_is_refused(serve, context, issued):
    lax, strict = context(issued), context(issued)
    strict.set_ciphers("ECDHE+AESGCM")
    server = serve(InTurn(start_tls(lax), start_tls(lax), start_tls(strict)))

    assert offered(server, Offer.WEAK_CIPHERS, timeout=10) == []
