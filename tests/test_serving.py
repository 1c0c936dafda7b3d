"""What counts as verified of a Postfix that runs, and whom a failure concerns."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from certbot_postfix.errors import ProofError, UnansweredError
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.questions import Expectation
from certbot_postfix.postfix.serving import Serving
from certbot_postfix.system.reporter import Reporter
from certbot_postfix.tls.certificates import Certificate
from tests.lab import Authority, PrivatePostfix
from tests.lab.machine import LOOPBACK, wait_until
from tests.lab.postfix import SERVICES

pytestmark = pytest.mark.postfix

TIMEOUT = 2.0


@dataclass
class Stage:
    """A running Postfix, as the product sees it, and what it *said*."""

    configuration: Configuration
    serving: Serving
    promises: list[Expectation]
    said: list[str]


@pytest.fixture
def stage(stopped_postfix: PrivatePostfix) -> Callable[..., Stage]:
    """Start Postfix, its entries in master.cf with overrides by service."""

    def start(**overrides: dict[str, str]) -> Stage:
        for service, values in overrides.items():
            entry = f"{LOOPBACK}:{stopped_postfix.ports[service]}/inet"
            options = (f"{entry}/{name}={value}" for name, value in values.items())
            stopped_postfix.postconf("-P", *options)
        stopped_postfix.settle()
        stopped_postfix.start()
        product, said = Postfix(stopped_postfix.config_dir), []
        oil = (stopped_postfix.config_dir / "snakeoil.pem").read_bytes()
        return Stage(
            product.read(),
            Serving(product, TIMEOUT, Reporter(said.append)),
            [Expectation(None, tuple(Certificate.all_from_pem(oil)))],
            said,
        )

    return start


def entry(postfix: PrivatePostfix, service: str) -> str:
    """Return what messages call the service."""
    return f"{LOOPBACK}:{postfix.ports[service]}"


@pytest.fixture
def own(base: Path, authority: Authority) -> dict[str, str]:
    """Overrides that name a certificate of a service's own."""
    issued = authority.issue("own.example.org")
    files = {"cert": base / "own.pem", "key": base / "own.key"}
    files["key"].touch(mode=0o600)
    files["key"].write_bytes(issued.key_pem)
    files["cert"].write_bytes(issued.fullchain_pem)
    return {f"smtpd_tls_{kind}_file": str(path) for kind, path in files.items()}


def test_a_service_that_showed_its_own_certificate_must_still_show_one(
    stopped_postfix, stage, own
):
    scene = stage(submission=own)
    scene.serving.record_baseline(scene.configuration)
    Path(own["smtpd_tls_key_file"]).unlink()

    with pytest.raises(ProofError, match="TLS not available") as caught:
        scene.serving.reload_and_verify(scene.configuration, scene.promises)

    assert entry(stopped_postfix, "submission") in caught.value.message
    assert scene.said == []


def test_a_service_that_showed_no_certificate_of_its_own_hinders_nobody(stage, own):
    Path(own["smtpd_tls_key_file"]).unlink()
    scene = stage(submission=own)
    scene.serving.record_baseline(scene.configuration)

    scene.serving.reload_and_verify(scene.configuration, scene.promises)

    (words,) = scene.said
    assert words.startswith("Verified on ")


def test_it_is_said_if_no_service_shows_the_certificate(stage):
    off = {"smtpd_tls_security_level": "none"}
    scene = stage(
        smtp=off, submission=off, submissions={**off, "smtpd_tls_wrappermode": "no"}
    )
    scene.serving.record_baseline(scene.configuration)

    scene.serving.reload_and_verify(scene.configuration, scene.promises)

    (words,) = scene.said
    assert words.endswith("nothing to verify.")


def test_a_service_that_wants_certificates_of_its_clients_is_proven(
    base, stopped_postfix, stage, authority
):
    authorities = base / "clients-ca.pem"
    authorities.write_bytes(authority.root_pem)
    scene = stage(
        submissions={
            "smtpd_tls_req_ccert": "yes",
            "smtpd_tls_CAfile": str(authorities),
        }
    )
    scene.serving.record_baseline(scene.configuration)

    scene.serving.reload_and_verify(scene.configuration, scene.promises)

    (words,) = scene.said
    assert words.startswith("Verified on ")
    assert entry(stopped_postfix, "submissions") in words


def test_a_service_that_was_dead_before_is_no_reason_to_start_postfix_anew(
    stopped_postfix, stage
):
    scene = stage(submissions={"smtpd_tls_wrappermode": "bad"})
    scene.serving.record_baseline(scene.configuration)
    master = stopped_postfix.master_pid

    scene.serving.restore_and_verify(scene.configuration, scene.promises)

    words = scene.said[-1]
    assert words.startswith("Verified on ")
    assert entry(stopped_postfix, "submissions") not in words
    assert stopped_postfix.master_pid == master


def test_postfix_is_not_started_anew_if_nobody_knows_what_was_dead_before(
    stopped_postfix, stage
):
    scene = stage(submissions={"smtpd_tls_wrappermode": "bad"})
    master = stopped_postfix.master_pid

    dead = entry(stopped_postfix, "submissions")
    with pytest.raises(UnansweredError, match=rf"{dead} did not answer"):
        scene.serving.restore_and_verify(scene.configuration, scene.promises)

    assert stopped_postfix.master_pid == master


# Who is promised what


def test_a_promise_to_some_services_is_asked_of_no_other(stopped_postfix, stage, own):
    scene = stage(submission=own)
    leaves = Certificate.all_from_pem(Path(own["smtpd_tls_cert_file"]).read_bytes())
    submission = frozenset({f"{entry(stopped_postfix, 'submission')}/inet"})
    promises = [*scene.promises, Expectation(None, tuple(leaves[:1]), submission)]

    scene.serving.reload_and_verify(scene.configuration, promises)

    (words,) = scene.said
    assert all(entry(stopped_postfix, name) in words for name in SERVICES)
    assert f", default on {entry(stopped_postfix, 'submission')})" in words
    others = [entry(stopped_postfix, name) for name in ("smtp", "submissions")]
    assert f", default on {' and '.join(others)})" in words


def test_a_promise_to_some_services_that_is_broken_is_told_of_those(
    stopped_postfix, stage, authority
):
    scene = stage()
    leaf = Certificate.all_from_pem(authority.issue("a.example.org").cert_pem)[0]
    smtp = entry(stopped_postfix, "smtp")
    promises = [
        *scene.promises,
        Expectation(None, (leaf,), frozenset({f"{smtp}/inet"})),
    ]

    with pytest.raises(ProofError) as caught:
        scene.serving.reload_and_verify(scene.configuration, promises)

    assert f"{smtp} presents " in caught.value.message
    assert f"instead of {leaf}" in caught.value.message
    assert entry(stopped_postfix, "submissions") not in caught.value.message


@pytest.fixture
def named(base: Path, stopped_postfix, authority: Authority) -> Expectation:
    """A name that is in the table of main.cf."""
    issued = authority.issue("www.example.org")
    bundle, table = base / "www.pem", base / "names"
    bundle.touch(mode=0o600)
    bundle.write_bytes(issued.bundle_pem)
    table.write_text(f"www.example.org {bundle}\n")
    stopped_postfix.set(tls_server_sni_maps=f"texthash:{table}")
    leaf = Certificate.all_from_pem(issued.cert_pem)[0]
    return Expectation("www.example.org", (leaf,))


def test_a_name_is_asked_for_at_every_service(stage, named):
    scene = stage()

    assert scene.serving.serves_already(
        scene.configuration, [*scene.promises, named], []
    )


def test_a_name_that_is_not_served_is_told(stage, named):
    scene = stage()
    stranger = replace(named, server_name="stranger.example.org")

    assert not scene.serving.serves_already(scene.configuration, [stranger], [])
    with pytest.raises(ProofError, match=r" requesting stranger\.example\.org"):
        scene.serving.reload_and_verify(scene.configuration, [stranger])


def test_a_service_with_a_table_of_its_own_is_not_asked_for_names(
    stopped_postfix, stage, named
):
    scene = stage(submission={"tls_server_sni_maps": "inline:{nobody=/none}"})

    scene.serving.reload_and_verify(scene.configuration, [named])

    (words,) = scene.said
    assert entry(stopped_postfix, "smtp") in words
    assert entry(stopped_postfix, "submission") not in words


def test_of_a_thousand_names_a_sample_is_verified_and_said(
    stopped_postfix, stage, named
):
    names = [f"{number}.example.net" for number in range(1000)]
    table = stopped_postfix.base / "names"
    (bundle,) = {line.split()[1] for line in table.read_text().splitlines()}
    table.write_text("".join(f"{name} {bundle}\n" for name in names))
    scene = stage()
    promises = [*scene.promises, *(replace(named, server_name=each) for each in names)]

    scene.serving.reload_and_verify(scene.configuration, promises)

    verified, sample = scene.said
    assert verified.startswith("Verified on ")
    assert sample.startswith("Of 1,000 names, a sample of 5 was verified")
    assert stopped_postfix.log().count(": connect from ") < 50


def test_a_service_that_greets_late_is_verified_for_as_many_names_as_there_is_time(
    stopped_postfix, stage, named
):
    late = {"smtpd_delay_reject": "no", "smtpd_client_restrictions": "sleep,1"}
    names = [f"{number}.example.net" for number in range(30)]
    table = stopped_postfix.base / "names"
    (bundle,) = {line.split()[1] for line in table.read_text().splitlines()}
    table.write_text("".join(f"{name} {bundle}\n" for name in names))
    scene = stage(smtp=late)
    promises = [*scene.promises, *(replace(named, server_name=each) for each in names)]
    scene.serving.record_baseline(scene.configuration)

    scene.serving.reload_and_verify(scene.configuration, promises)

    assert scene.said[0].startswith("Verified on ")
    assert scene.said[1].startswith("Of 30 names, a sample of ")


def test_a_service_that_greets_late_was_alive_however_short_the_timeout_is(
    stopped_postfix, stage
):
    late = {"smtpd_delay_reject": "no", "smtpd_client_restrictions": "sleep,2"}
    scene = stage(submission=late)
    scene.serving.timeout = 1
    scene.serving.record_baseline(scene.configuration)
    stopped_postfix.postconf(
        "-P", f"{entry(stopped_postfix, 'submission')}/inet/smtpd_helo_required=bad"
    )
    stopped_postfix.settle()

    with pytest.raises(UnansweredError):
        scene.serving.reload_and_verify(scene.configuration, scene.promises)


def test_what_is_shown_is_open_while_a_process_may_have_read_what_was_there_before(
    stage, base
):
    scene, changed = stage(), base / "bundle.pem"
    serving, at = scene.serving, scene.configuration
    assert serving.serves_already(at, scene.promises, [changed])  # and a process stays

    changed.touch()
    assert not serving.serves_already(at, scene.promises, [changed])

    serving.reload_and_verify(at, scene.promises)
    wait_until(
        lambda: serving.serves_already(at, scene.promises, [changed]), "all are new"
    )
