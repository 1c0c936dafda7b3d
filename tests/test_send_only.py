"""A host that only sends mail has policies without a certificate, and loses them."""

import os
import pty
from pathlib import Path

import pytest

from tests.lab import COMMAND
from tests.lab.postfix import snapshot
from tests.test_outbound_mail import (
    DAEMON,
    of_another_name,
    start_daemon,
    sts,
    world,
)
from tests.test_resolver_daemons import maps, policy, start_stand_in, table

__all__ = ["sts", "world"]  # fixtures

pytestmark = pytest.mark.postfix


def domains(world) -> tuple[str, str]:
    return "--mta-sts-domains", str(world.domains)


def test_policies_are_enforced_without_a_certificate_and_go_without_a_trace(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.sender.settle()
    before = snapshot(sts.sender.config_dir)
    server = {name for name in sts.sender.postconf("-n").split() if "smtpd" in name}

    status, said = policy(sts, "install", *domains(sts))

    assert (status, "+sts.insecure secure match=mx.sts.insecure" in said) == (0, True)
    assert "+smtp_tls_policy_maps = texthash:" in said
    undo = f"policy remove --postfix-config-dir {sts.sender.config_dir}\n"
    assert f"To undo: certbot-postfix {undo}" in said
    names = {name for name in sts.sender.postconf("-n").split() if "smtpd" in name}
    assert names == server
    assert policy(sts, "install") == (0, "certbot-postfix: No changes needed.\n")
    sts.sender.start()
    sts.arrives(sts.send("you@sts.insecure"))
    sts.sender.await_log("Verified TLS connection established to mx.sts.insecure")
    of_another_name(sts)
    mark = sts.send("you@sts.insecure")
    assert "not verified" in sts.sender.deferred("you@sts.insecure")

    status, said = policy(sts, "remove")

    assert (status, "-smtp_tls_policy_maps" in said) == (0, True)
    assert snapshot(sts.sender.config_dir) == before
    sts.flush()
    sts.arrives(mark)
    assert policy(sts, "remove")[0] == 1


def test_what_was_set_since_is_left_unchanged_when_policies_go(sts):
    sts.sender.set(smtp_tls_security_level="none")
    sts.sender.settle()
    policy(sts, "install", *domains(sts))
    assert sts.sender.postconf("-h", "smtp_tls_security_level").strip() == "may"
    own = sts.sender.config_dir / "own"
    own.write_text("other.insecure may\n")
    sts.sender.set(
        smtp_tls_security_level="encrypt",
        smtp_tls_policy_maps=f"texthash:{own}, {maps(sts)}",
    )

    policy(sts, "remove")

    assert sts.sender.postconf("-h", "smtp_tls_security_level").strip() == "encrypt"
    assert maps(sts) == f"texthash:{own}"


def by_rollback(sts, _before: bytes) -> None:
    where = ("--postfix-config-dir", str(sts.sender.config_dir))
    sts.succeed(sts.certbot.argv("rollback", "-i", "postfix", *where))


def by_an_editor(sts, before: bytes) -> None:
    sts.sender.main_cf.write_bytes(before)


@pytest.mark.parametrize("restore", [by_rollback, by_an_editor])
def test_what_is_set_after_main_cf_was_restored_is_not_taken_for_ours(sts, restore):
    sts.sender.postconf("-X", "smtp_tls_CAfile")  # which Debian 13 sets
    before = sts.sender.main_cf.read_bytes()
    sts.install("--postfix-mta-sts-domains", str(sts.domains))
    bundle = sts.sender.postconf("-h", "smtp_tls_CAfile")
    restore(sts, before)
    assert "smtp_tls_CAfile" not in sts.sender.postconf("-n")
    sts.sender.set(smtp_tls_CAfile=bundle.strip())

    policy(sts, "install", *domains(sts))
    policy(sts, "remove")

    assert maps(sts) == ""
    assert sts.sender.postconf("-h", "smtp_tls_CAfile") == bundle


def test_a_daemon_is_wired_in_and_taken_out_again(world):
    start_stand_in(world)
    dnssec = world.sender.postconf("-h", "smtp_dns_support_level")

    status, _ = policy(world, "install")
    assert (status, maps(world)) == (0, table(world))
    assert world.sender.postconf("-h", "smtp_dns_support_level").strip() == "dnssec"

    status, _ = policy(world, "install", "--policy-service", "none")
    assert (status, maps(world)) == (0, "")
    policy(world, "install")
    policy(world, "remove")
    assert maps(world) == ""
    assert world.sender.postconf("-h", "smtp_dns_support_level") == dnssec


def test_certbot_takes_a_daemon_out_that_it_has_wired_in(sts):
    start_daemon(sts)
    sts.install()
    assert maps(sts) == DAEMON

    sts.install("--postfix-policy-service", "none")

    assert maps(sts) == ""
    sts.sender.set(smtp_tls_policy_maps=DAEMON)  # by the administrator
    sts.install("--postfix-policy-service", "none")
    assert maps(sts) == DAEMON


def test_the_level_dane_is_refused_where_it_would_protect_nothing(world):
    (world.network.base / "resolv.conf").write_text("nameserver 127.0.0.99\n")
    world.sender.settle()
    before = snapshot(world.sender.config_dir)

    status, said = policy(world, "install", "--client-level", "dane")

    assert (status, "the level dane would protect no mail" in said) == (1, True)
    assert snapshot(world.sender.config_dir) == before


def test_a_reload_that_fails_is_undone(sts):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.sender.start()
    sts.sender.settle()
    before = snapshot(sts.sender.config_dir)
    program = Path(sts.network.base, "postfix")
    program.write_text(
        '#!/bin/sh\ncase $* in *reload*) exit 1;; esac\nexec /usr/sbin/postfix "$@"\n'
    )
    program.chmod(0o755)
    sts.certbot.environment["PATH"] = f"{program.parent}:{os.environ['PATH']}"

    status, said = policy(sts, "install", *domains(sts))

    assert status == 1, said
    assert snapshot(sts.sender.config_dir) == before


@pytest.mark.parametrize("answer", ["n", "y"])
def test_on_a_terminal_the_diff_is_shown_and_it_is_asked(sts, answer):
    sts.network.policy("sts.insecure", "mx.sts.insecure")
    sts.sender.settle()
    where = ["--postfix-config-dir", str(sts.sender.config_dir)]
    where += ["--config-dir", str(sts.certbot.config_dir)]
    argv = sts.network.argv(str(COMMAND), *where, "policy", "install", *domains(sts))
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe(argv[0], argv, sts.certbot.environment)
    said = b""
    while b"(Y)es/(N)o" not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, answer.encode() + b"\n")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)

    assert b"+smtp_tls_policy_maps" in said
    assert (status, bool(maps(sts))) == ((0, True) if answer == "y" else (1, False))
