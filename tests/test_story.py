"""The story that users live through, with real programs from end to end."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable

import pytest
from cryptography import x509

from certbot_postfix.postfix.current import Current
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.profiles.intermediate import openssl
from certbot_postfix.tls.certificates import Certificate
from tests.lab import (
    Authority,
    Certbot,
    PrivatePostfix,
    install_lineage,
    pki,
    renew_lineage,
)
from tests.lab.clients import negotiate
from tests.lab.machine import LOOPBACK
from tests.lab.postfix import SERVICES, snapshot
from tests.lab.scene import identity, options
from tests.lab.terminal import converse

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"


def run(certbot: Certbot, postfix: PrivatePostfix) -> str:
    """Obtain and deploy a certificate; return what certbot printed."""
    done = certbot("run", "-a", "standalone", "-d", NAME, *options(postfix))
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(certbot: Certbot, postfix: PrivatePostfix, *args: str) -> str:
    """Deploy the lineage that is there; return all that certbot told."""
    done = certbot("install", "--cert-name", NAME, *options(postfix), *args)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def rollback(certbot: Certbot, postfix: PrivatePostfix) -> str:
    """Undo the last deployment; return all that certbot told."""
    done = certbot("rollback", *options(postfix))
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def lineage(certbot: Certbot, authority: Authority, kind: str = "ecdsa") -> pki.Issued:
    """Make a lineage without an ACME server; return what is in it."""
    issued = authority.issue(NAME, key=pki.generate_key(kind))
    install_lineage(certbot.config_dir, NAME, issued)
    return issued


def live(certbot: Certbot) -> x509.Certificate:
    """Return the newest leaf that certbot obtained."""
    pem = (certbot.config_dir / "live" / NAME / "cert.pem").read_bytes()
    return x509.load_pem_x509_certificate(pem)


def served(postfix: PrivatePostfix) -> dict[str, x509.Certificate]:
    """Return the leaf on every service."""
    return {service: postfix.served(service) for service in SERVICES}


def everywhere(leaf: x509.Certificate) -> dict[str, x509.Certificate]:
    """Return what `served` returns when every service serves *leaf*."""
    return dict.fromkeys(SERVICES, leaf)


def parameters(postfix: PrivatePostfix) -> dict[str, str]:
    """Return what main.cf sets."""
    lines = postfix.postconf("-n").splitlines()
    return dict(line.split(" =", 1) for line in lines)


# From the first certificate to the last


def test_a_certificate_is_deployed_renewed_and_rolled_back(
    postfix, base, pebble, executable
):
    certbot = Certbot(base, executable=executable, pebble=pebble)
    before, snake_oil = postfix.snapshot(), served(postfix)

    printed = run(certbot, postfix)

    assert f"+smtpd_tls_chain_files = {certbot.bundle(NAME)}" in printed
    assert "Verified on " in printed
    assert served(postfix) == everywhere(live(certbot))
    first, main_cf = live(certbot), identity(postfix.main_cf)

    renewed = certbot("renew", "--force-renewal")

    assert renewed.returncode == 0, renewed.stderr
    assert live(certbot) != first
    assert served(postfix) == everywhere(live(certbot))
    assert identity(postfix.main_cf) == main_cf

    rollback(certbot, postfix)

    assert postfix.snapshot() == before
    assert served(postfix) == snake_oil


def test_a_second_run_writes_nothing_and_says_so(postfix, base, pebble, executable):
    certbot = Certbot(base, executable=executable, pebble=pebble)
    run(certbot, postfix)
    checkpoints = certbot.work_dir / "backups"
    before = snapshot(certbot.config_dir / "postfix"), snapshot(checkpoints)
    files = [*postfix.config_dir.iterdir(), certbot.bundle(NAME)]
    identities = list(map(identity, files))

    printed = run(certbot, postfix)

    assert f"{postfix.main_cf} is already configured for {NAME}" in printed
    assert f"Postfix serves the certificate for {NAME}" in printed
    assert list(map(identity, files)) == identities
    assert set(postfix.config_dir.iterdir()) | {certbot.bundle(NAME)} == set(files)
    assert (snapshot(certbot.config_dir / "postfix"), snapshot(checkpoints)) == before


def test_a_deployment_adds_no_file_but_the_bundle_and_a_rollback_leaves_nothing(
    postfix, certbot, authority
):
    issued = lineage(certbot, authority)
    before = set(postfix.snapshot())

    install(certbot, postfix)

    assert set(postfix.snapshot()) == before
    assert list((certbot.config_dir / "postfix").iterdir()) == [certbot.bundle(NAME)]
    assert certbot.bundle(NAME).read_bytes() == issued.bundle_pem
    assert not list(certbot.work_dir.rglob("main.cf"))

    rollback(certbot, postfix)

    assert list((certbot.config_dir / "postfix").iterdir()) == []
    assert list((certbot.work_dir / "backups").iterdir()) == []
    assert not (certbot.work_dir / "postfix").exists()
    assert not list(postfix.config_dir.glob(".*"))


def test_a_second_deployment_replaces_the_bundle_and_keeps_no_old_one(
    postfix, certbot, authority
):
    lineage(certbot, authority)
    install(certbot, postfix)
    main_cf, newer = identity(postfix.main_cf), authority.issue(NAME)
    renew_lineage(certbot.config_dir, NAME, newer)

    install(certbot, postfix)

    assert list((certbot.config_dir / "postfix").iterdir()) == [certbot.bundle(NAME)]
    assert certbot.bundle(NAME).read_bytes() == newer.bundle_pem
    assert identity(postfix.main_cf) == main_cf
    assert served(postfix) == everywhere(newer.leaf)


def test_a_rehearsal_of_a_renewal_changes_nothing(postfix, certbot):
    run(certbot, postfix)
    bundles = certbot.config_dir / "postfix"
    before = postfix.snapshot(), snapshot(bundles)
    identities = identity(postfix.main_cf), identity(certbot.bundle(NAME))
    reloads = postfix.log().count("reload --")

    done = certbot("renew", "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "simulated renewal" in done.stdout
    assert (postfix.snapshot(), snapshot(bundles)) == before
    assert (identity(postfix.main_cf), identity(certbot.bundle(NAME))) == identities
    assert served(postfix) == everywhere(live(certbot))
    assert postfix.log().count("reload --") == reloads


def test_a_quiet_renewal_prints_nothing_reloads_once_and_keeps_what_was_added_by_hand(
    postfix, certbot
):
    run(certbot, postfix)
    with postfix.main_cf.open("a") as file:
        file.write("# by hand\nsmtpd_banner = hello\n")
    postfix.settle()
    first, main_cf = live(certbot), identity(postfix.main_cf)
    reloads = postfix.log().count("reload --")

    done = certbot("-q", "renew", "--force-renewal")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert live(certbot) != first
    assert served(postfix) == everywhere(live(certbot))
    assert identity(postfix.main_cf) == main_cf
    assert postfix.log().count("reload --") == reloads + 1


# At a terminal


def at_a_terminal(
    certbot: Certbot,
    postfix: PrivatePostfix,
    answer: str,
    *more: str,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[str, int]:
    """Deploy at a terminal, give *answer* to the question; return what was shown.

    *more* are further options, and *meanwhile* happens while the question waits.
    """
    argv = certbot.argv("install", "--cert-name", NAME, *options(postfix), *more)
    argv.remove("-n")
    return converse(argv, certbot.environment, answer, meanwhile=meanwhile)


def test_a_no_at_the_terminal_leaves_everything_as_it_was(postfix, certbot, authority):
    lineage(certbot, authority)
    before, snake_oil = postfix.snapshot(), served(postfix)
    main_cf = identity(postfix.main_cf)

    shown, status = at_a_terminal(certbot, postfix, "n")

    assert status == 1
    assert f"+smtpd_tls_chain_files = {certbot.bundle(NAME)}" in shown
    # Nothing is said of the overrides that Debian's submission has.
    # A machine under load needs more than the second after which a step is shown.
    before_all = ("debug log", "Checking the new configuration", "Deploying")
    first = next(
        line
        for line in shown.splitlines()
        if line and not any(words in line for words in before_all)
    )
    assert first == f"--- {postfix.main_cf}"
    assert (
        "Cancelled. No changes were made.\n"
        f"Hint: to install it later: certbot install -i postfix --cert-name {NAME}"
        f" --postfix-config-dir {postfix.config_dir}"
    ) in shown
    assert postfix.snapshot() == before
    assert identity(postfix.main_cf) == main_cf
    assert not certbot.bundle(NAME).exists()
    assert list((certbot.work_dir / "backups").iterdir()) == []
    assert served(postfix) == snake_oil


def test_a_yes_at_the_terminal_deploys_and_shows_each_step_and_the_result(
    postfix, certbot, authority
):
    issued = lineage(certbot, authority)

    shown, status = at_a_terminal(certbot, postfix, "y")

    assert status == 0
    assert served(postfix) == everywhere(issued.leaf)
    _, _, after = shown.partition("(Y)es/(N)o: y\n")
    services = [f"{LOOPBACK}:{postfix.ports[name]}" for name in SERVICES]
    where = f"--postfix-config-dir {postfix.config_dir}"
    end = Certificate.all_from_pem(issued.cert_pem)[0].not_after
    assert after.splitlines() == [
        "Checking 3 listeners ... done",
        "Writing files ... done",
        f"Reloading Postfix ({postfix.config_dir}) ... done",
        "Verifying 3 listeners ... done",
        f"Verified on 3 listeners ({', '.join(services[:2])} and {services[2]}; IPv4):",
        f"  {NAME}  ECDSA  expires {end:%Y-%m-%d}  default",
        f"Bundle: {certbot.bundle(NAME)}",
        f"Undo:   certbot rollback -i postfix {where}",
        f"Check:  certbot-postfix status {where}",
    ]


def test_a_terminal_shows_no_writing_where_nothing_is_to_be_written(
    postfix, certbot, authority
):
    lineage(certbot, authority)
    again = certbot.argv("install", "--cert-name", NAME, *options(postfix))
    converse(again, certbot.environment)

    shown, status = converse(again, certbot.environment)

    assert (status, "already configured" in shown) == (0, True)
    assert "Writing files" not in shown


def test_a_renewal_at_a_terminal_shows_its_steps_and_nothing_with_q(
    postfix, base, pebble, executable
):
    certbot = Certbot(base, executable=executable, pebble=pebble)
    run(certbot, postfix)
    renew = ("renew", "--force-renewal")

    shown, status = converse(certbot.argv(*renew), certbot.environment)
    quiet = converse(certbot.argv(*renew, "-q"), certbot.environment)

    assert status == 0
    assert (
        "Checking 3 listeners ... done\n"
        "Writing files ... done\n"
        f"Reloading Postfix ({postfix.config_dir}) ... done\n"
        "Verifying 3 listeners ... done\n"
        "Verified on 3 listeners ("
    ) in shown
    assert "Undo:" not in shown
    assert quiet == ("", 0)
    assert served(postfix) == everywhere(live(certbot))


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_certificate_and_policies_are_one_diff_and_one_question(
    postfix, certbot, authority, base, answer
):
    issued, listed = lineage(certbot, authority), base / "list.json"
    entry = {"mode": "enforce", "mxs": ["mx.example.org"]}
    policies = {"policy.example.org": entry}
    about = {"version": "0.1", "timestamp": 1_700_000_000, "expires": 4_000_000_000}
    listed.write_text(json.dumps({**about, "policies": policies}))
    before, snake_oil = postfix.snapshot(), served(postfix)
    reloads = postfix.log().count("reload --")

    def nothing_has_changed() -> None:
        now = postfix.snapshot()
        now.pop(".certbot.lock", None)  # which is held meanwhile
        assert now == before
        assert served(postfix) == snake_oil

    shown, status = at_a_terminal(
        *(certbot, postfix, answer, "--postfix-policy-list", str(listed)),
        meanwhile=nothing_has_changed,
    )

    assert shown.count("(Y)es/(N)o: ") == 1
    assert shown.count("--- ") == 2  # main.cf, and the policy map
    assert "+policy.example.org secure match=" in shown
    assert f"+smtpd_tls_chain_files = {certbot.bundle(NAME)}" in shown
    if answer == "n":
        assert status == 1
        nothing_has_changed()
        assert not certbot.bundle(NAME).exists()
    else:
        assert status == 0
        assert served(postfix) == everywhere(issued.leaf)
        postfix.settle()
        assert "policy.example.org" in Postfix(postfix.config_dir).answers(
            Postfix(postfix.config_dir).value("smtp_tls_policy_maps"),
            {"policy.example.org"},
        )
        assert postfix.log().count("reload --") == reloads + 1


# Undo


def test_a_rollback_restores_a_linked_main_cf_with_mode_and_owner(
    base, postfix, authority, executable
):
    certbot = Certbot(base, executable=executable)
    issued = lineage(certbot, authority)
    elsewhere = base / "elsewhere"
    elsewhere.mkdir()
    target = elsewhere / "postfix-main.cf"
    shutil.copy2(postfix.main_cf, target)
    link = elsewhere / "link"
    link.symlink_to(target)
    link.replace(postfix.main_cf)  # at no time there is none: a service would die of it
    shutil.chown(target, "root", "postfix")
    target.chmod(0o640)
    before = postfix.snapshot(), snapshot(elsewhere)
    snake_oil = served(postfix)

    install(certbot, postfix)

    after = snapshot(elsewhere)[target.name]
    assert postfix.snapshot() == before[0]
    assert after._replace(content=None) == before[1][target.name]._replace(content=None)
    assert after.content != before[1][target.name].content
    assert served(postfix) == everywhere(issued.leaf)

    rollback(certbot, postfix)

    assert (postfix.snapshot(), snapshot(elsewhere)) == before
    assert served(postfix) == snake_oil


def test_a_rollback_mends_a_main_cf_that_was_broken_by_hand(
    postfix, certbot, authority
):
    lineage(certbot, authority)
    before, snake_oil = postfix.snapshot(), served(postfix)
    install(certbot, postfix)
    with postfix.main_cf.open("a") as file:
        file.write("this is no parameter\n")

    rollback(certbot, postfix)

    assert postfix.snapshot() == before
    assert served(postfix) == snake_oil


def test_a_rollback_works_while_postfix_is_stopped_and_does_not_start_it(
    postfix, certbot, authority
):
    lineage(certbot, authority)
    before, snake_oil = postfix.snapshot(), served(postfix)
    install(certbot, postfix)
    postfix.stop()

    printed = rollback(certbot, postfix)

    assert postfix.snapshot() == before
    assert "is not running and was not started" in printed
    assert not postfix.running
    postfix.start()
    assert served(postfix) == snake_oil


def test_a_rollback_of_nothing_says_so_and_leaves_postfix_alone(postfix, certbot):
    before, reloads = postfix.snapshot(), postfix.log().count("reload --")

    done = certbot("rollback", *options(postfix))

    printed = done.stdout + done.stderr
    assert done.returncode == 0
    assert "rollback isn't available" in printed
    assert "Restoring" not in printed
    assert "Verif" not in printed
    assert postfix.snapshot() == before
    assert postfix.log().count("reload --") == reloads


def test_two_deployments_are_undone_one_after_the_other(postfix, certbot, authority):
    issued = lineage(certbot, authority)
    snapshots = [postfix.snapshot()]
    snake_oil = served(postfix)
    install(certbot, postfix)
    snapshots.append(postfix.snapshot())
    install(certbot, postfix, "--postfix-tls-profile", "intermediate")

    rollback(certbot, postfix)

    assert postfix.snapshot() == snapshots[1]
    assert served(postfix) == everywhere(issued.leaf)

    rollback(certbot, postfix)

    assert postfix.snapshot() == snapshots[0]
    assert served(postfix) == snake_oil


# The profile intermediate

INTERMEDIATE = {
    "smtpd_tls_auth_only",
    "smtpd_tls_chain_files",
    "smtpd_tls_loglevel",
    "smtpd_tls_mandatory_protocols",
    "smtpd_tls_protocols",
    "smtpd_tls_received_header",
    "smtp_tls_loglevel",
    "tls_eecdh_auto_curves",
    "tls_medium_cipherlist",
}
RETIRED = {"smtpd_tls_cert_file", "smtpd_tls_key_file"}

CIPHERS = {
    "ecdsa": [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ],
    "rsa": [
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ],
}
WEAK = {"ecdsa": "ECDHE-ECDSA-AES128-SHA256", "rsa": "AES128-GCM-SHA256"}


def weak_and_strong(postfix: PrivatePostfix, service: str, kind: str) -> list[str]:
    """Return what *service* makes of TLS 1.1, a weak cipher, the good ones, TLS 1.3."""
    offers = [
        ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        *(["-tls1_2", "-cipher", cipher] for cipher in [WEAK[kind], *CIPHERS[kind]]),
        ["-tls1_3"],
    ]
    return [negotiate(postfix, service, *offer) for offer in offers]


@pytest.mark.parametrize("kind", CIPHERS)
def test_the_profile_intermediate_ends_old_protocols_and_ciphers_on_every_service(
    postfix, certbot, authority, kind
):
    lineage(certbot, authority, kind)
    install(certbot, postfix)
    for service in SERVICES:  # or nothing would be shown below
        old, weak, *_ = weak_and_strong(postfix, service, kind)
        assert old.startswith("TLSv1.1 ")
        assert weak == f"TLSv1.2 {WEAK[kind]}"

    install(certbot, postfix, "--postfix-tls-profile", "intermediate")

    expected = ["", "", *(f"TLSv1.2 {cipher}" for cipher in CIPHERS[kind])]
    for service in SERVICES:
        *found, modern = weak_and_strong(postfix, service, kind)
        assert found == expected
        assert modern.startswith("TLSv1.3 ")


def test_the_profile_intermediate_sets_what_it_lists_and_nothing_else_in_one_run(
    postfix, certbot, authority
):
    issued = lineage(certbot, authority)
    before = parameters(postfix)

    printed = install(certbot, postfix, "--postfix-tls-profile", "intermediate")

    after = parameters(postfix)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    unneeded = set()
    if "X25519MLKEM768" in postfix.postconf("-dh", "tls_eecdh_auto_curves"):
        unneeded = {"tls_eecdh_auto_curves"}  # Postfix 3.11 has a better default
    assert changed == (INTERMEDIATE | RETIRED) - unneeded
    added = set(re.findall(r"^\+(\w+) = ", printed, re.MULTILINE))
    retired = set(re.findall(r"^\+#(\w+) ?=", printed, re.MULTILINE))
    assert (added, retired) == (INTERMEDIATE - unneeded, RETIRED)
    assert served(postfix) == everywhere(issued.leaf)
    main_cf = identity(postfix.main_cf)

    again = install(certbot, postfix, "--postfix-tls-profile", "intermediate")

    assert "is already configured" in again
    assert identity(postfix.main_cf) == main_cf


def client_hello(postfix: PrivatePostfix) -> bytes:
    """Return what begins a handshake of the SMTP client."""
    with socket.create_server((LOOPBACK, 0)) as server:
        hop = f"[{LOOPBACK}]:{server.getsockname()[1]}"
        with finger(postfix, hop), server.accept()[0] as client:
            client.sendall(b"220 mx.example.org ESMTP\r\n")
            lines = client.makefile("rb")
            for reply in (b"250-mx.example.org\r\n250 STARTTLS\r\n", b"220 go\r\n"):
                lines.readline()
                client.sendall(reply)
            head = lines.read(5)
            return head + lines.read(int.from_bytes(head[3:], "big"))


def finger(postfix: PrivatePostfix, hop: str) -> "subprocess.Popen[str]":
    """Start posttls-finger(1), which is an SMTP client with Postfix's parameters."""
    return subprocess.Popen(
        ["posttls-finger", "-c", "-l", "may", "-L", "summary", hop],
        env={"MAIL_CONFIG": str(postfix.config_dir), "PATH": "/usr/sbin:/usr/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_post_quantum_group_is_used_and_no_hello_is_longer_for_it(
    postfix, certbot, authority
):
    """Some servers cannot handle one that does not fit into a segment of TCP."""
    configuration = Current(Postfix(postfix.config_dir)).configuration
    if configuration.version < (3, 10) or openssl(configuration) < (3, 5):
        pytest.skip("Postfix or OpenSSL has no such group")
    lineage(certbot, authority)
    install(certbot, postfix, "--postfix-tls-profile", "internet-nl")

    assert len(client_hello(postfix)) < 1000
    with finger(postfix, f"[{LOOPBACK}]:{postfix.ports['smtp']}") as client:
        assert "key-exchange X25519MLKEM768" in client.communicate()[0]


# Services that go their own way


def test_a_service_with_its_own_certificate_keeps_it(
    base, stopped_postfix, certbot, authority
):
    issued, own = lineage(certbot, authority), authority.issue("own.example.org")
    certificate, key = base / "own.pem", base / "own.key"
    certificate.write_bytes(own.fullchain_pem)
    key.touch(mode=0o600)
    key.write_bytes(own.key_pem)
    entry = f"{LOOPBACK}:{stopped_postfix.ports['submission']}/inet"
    stopped_postfix.postconf(
        "-P",
        f"{entry}/smtpd_tls_cert_file={certificate}",
        f"{entry}/smtpd_tls_key_file={key}",
    )
    stopped_postfix.settle()
    stopped_postfix.start()
    master_cf = identity(stopped_postfix.master_cf)

    done = certbot("install", "--cert-name", NAME, *options(stopped_postfix))

    assert done.returncode == 0, done.stderr
    assert served(stopped_postfix) == {
        "smtp": issued.leaf,
        "submission": own.leaf,
        "submissions": issued.leaf,
    }
    told = done.stdout + done.stderr
    override = f"smtpd_tls_cert_file for {entry} (value: {certificate})"
    note = f"Note: master.cf overrides {override}"
    assert (f"master.cf overrides {override}" in told, note in told) == (True, False)
    assert identity(stopped_postfix.master_cf) == master_cf

    intended = (*options(stopped_postfix), "--postfix-ignore-master-overrides")
    assert note in certbot("install", "--cert-name", NAME, *intended).stdout


def test_a_deployment_without_a_running_postfix_is_served_when_it_starts(
    stopped_postfix, certbot, authority
):
    issued = lineage(certbot, authority)

    printed = install(certbot, stopped_postfix)

    assert "is not running and was not started" in printed
    stopped_postfix.start()
    assert served(stopped_postfix) == everywhere(issued.leaf)
