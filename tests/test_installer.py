"""What certbot's verbs come to, whatever its other lineages and the terminal are."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from certbot_postfix import installer
from tests.lab import (
    Certbot,
    Pebble,
    install_lineage,
    renew_lineage,
)
from tests.test_story import (
    NAME,
    everywhere,
    identity,
    install,
    live,
    options,
    rollback,
    run,
    served,
)

pytestmark = pytest.mark.postfix

OTHER = "www.example.org"
FORGOTTEN = f"Renewals of {NAME} will NOT reach Postfix"
UNUSED = "{} was renewed, but is not installed in Postfix"


@pytest.fixture
def certbot(base: Path, pebble: Pebble) -> Certbot:
    """The newest certbot, which obtains certificates from Pebble."""
    return Certbot(base, pebble=pebble)


def succeed(certbot: Certbot, *args: str) -> str:
    """Run certbot, which must succeed; return all that it told."""
    done = certbot(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# The phases of a run


def test_the_table_of_phases_is_what_certbot_s_calls_come_to():
    _, _, table = installer.__doc__.partition("restores\n")
    cells = (re.split("  +", line) for line in table.partition("\n\n")[0].splitlines())
    rows = {name: (restart, restores) for name, _, restart, restores in cells if name}

    assert rows == {phase.name: phase.value for phase in installer.Phase}


# Renewals that pass us by


@pytest.mark.parametrize(
    ("installer", "forgotten"),
    [
        pytest.param(None, True, id="no installer"),
        pytest.param("nginx", True, id="another installer"),
        pytest.param("postfix", False, id="this installer"),
    ],
)
def test_install_warns_where_the_renewal_configuration_names(
    stopped_postfix, certbot, authority, installer, forgotten
):
    issued = authority.issue(NAME)
    install_lineage(certbot.config_dir, NAME, issued, installer=installer)

    told = succeed(certbot, "install", "--cert-name", NAME, *options(stopped_postfix))

    assert (FORGOTTEN in told) is forgotten
    command = ["certbot", "reconfigure", "--cert-name", NAME]
    assert (" ".join(command + options(stopped_postfix)) in told) is forgotten


def test_run_remembers_the_installer_and_does_not_warn(stopped_postfix, certbot):
    told = succeed(
        certbot, "run", "-a", "standalone", "-d", NAME, *options(stopped_postfix)
    )

    assert FORGOTTEN not in told


# Several lineages


def test_a_renewal_of_many_touches_only_the_one_that_is_deployed(postfix, certbot):
    obtain = ("-a", "standalone", *options(postfix))
    run(certbot, postfix)
    succeed(certbot, "certonly", "-d", OTHER, *obtain)
    main_cf, first = identity(postfix.main_cf), live(certbot)

    told = succeed(certbot, "renew", "--force-renewal")

    assert UNUSED.format(OTHER) in told
    assert UNUSED.format(NAME) not in told
    assert list((certbot.config_dir / "postfix").iterdir()) == [certbot.bundle(NAME)]
    assert identity(postfix.main_cf) == main_cf
    assert live(certbot) != first
    assert served(postfix) == everywhere(live(certbot))


@pytest.mark.parametrize("renewal", [["--force-renewal"], []], ids=["made", "missed"])
def test_what_was_rolled_back_does_not_come_back_with_a_renewal(
    postfix, certbot, authority, renewal
):
    before, snake_oil = postfix.snapshot(), served(postfix)
    run(certbot, postfix)
    rollback(certbot, postfix)
    if not renewal:
        renew_lineage(certbot.config_dir, NAME, authority.issue(NAME))

    told = succeed(certbot, "renew", *renewal)

    assert (UNUSED.format(NAME) in told) is bool(renewal)
    assert postfix.snapshot() == before
    assert not certbot.bundle(NAME).exists()
    assert served(postfix) == snake_oil


# Nothing to do


def spies(base: Path) -> tuple[dict[str, str], Path]:
    """Return options of the plugin that name spies, and where these write."""
    calls = base / "calls"
    for program in ("postfix", "postconf"):
        spy = base / f"spied-{program}"
        spy.write_text(f'#!/bin/sh\necho "$0 $*" >> {calls}\nexec {program} "$@"\n')
        spy.chmod(0o755)
    return {
        "postfix_ctl": str(base / "spied-postfix"),
        "postfix_config_utility": str(base / "spied-postconf"),
    }, calls


def test_no_program_of_postfix_is_started_if_no_renewal_was_missed(
    postfix, base, certbot, authority
):
    spied, calls = spies(base)
    where = {"postfix_config_dir": str(postfix.config_dir)}
    install_lineage(certbot.config_dir, NAME, authority.issue(NAME), **spied, **where)
    install(certbot, postfix)
    assert not calls.exists()

    succeed(certbot, "renew")

    assert not calls.exists()

    newer = authority.issue(NAME)
    renew_lineage(certbot.config_dir, NAME, newer)
    succeed(certbot, "renew")

    assert calls.exists()  # or nothing was shown above
    assert served(postfix) == everywhere(newer.leaf)


# Panels


def test_a_main_cf_that_a_panel_wrote_anew_is_told_once(postfix, certbot, authority):
    where = {"postfix_config_dir": str(postfix.config_dir)}
    install_lineage(certbot.config_dir, NAME, authority.issue(NAME), **where)
    before = postfix.main_cf.read_bytes()
    install(certbot, postfix)
    named = postfix.main_cf.read_bytes()
    postfix.main_cf.write_bytes(before)

    first, second = (certbot("renew", "-q") for _ in range(2))
    postfix.main_cf.write_bytes(named)
    third = certbot("renew", "-q")
    postfix.main_cf.write_bytes(before + b"# anew\n")
    fourth = certbot("renew", "-q")

    told = [each.stdout + each.stderr for each in (first, second, third, fourth)]
    assert [bool(each) for each in told] == [True, False, False, True]
    assert f"{postfix.main_cf} does not name {certbot.bundle(NAME)}" in told[0]
    assert f"certbot install -i postfix --cert-name {NAME}" in told[0]
    assert not any(each.returncode for each in (first, second, third, fourth))


# Other encodings


def told_in_latin_1(certbot: Certbot, *args: str) -> str:
    """Run certbot where only ISO-8859-1 can be read; return what it printed."""
    done = subprocess.run(
        certbot.argv(*args),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="iso-8859-1",
        env={**certbot.environment, "PYTHONIOENCODING": "iso-8859-1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_neither_what_is_read_nor_what_is_printed_need_be_utf_8(
    postfix, certbot, authority
):
    old = postfix.config_dir / "snakeoil.pem"
    renamed = old.with_name(os.fsdecode(b"m\xfcller.pem"))
    old.rename(renamed)
    text = postfix.main_cf.read_bytes().replace(os.fsencode(old), os.fsencode(renamed))
    at = text.index(b"smtpd_tls_cert_file")  # near enough to be shown
    postfix.main_cf.write_bytes(text[:at] + "# \u6f22\n".encode() + text[at:])
    postfix.settle()
    issued, newer = authority.issue(NAME), authority.issue(NAME)
    install_lineage(certbot.config_dir, NAME, issued)

    printed = told_in_latin_1(
        certbot, "install", "--cert-name", NAME, *options(postfix)
    )

    assert "Verified on " in printed
    assert "\n # \\u6f22\n" in printed
    assert served(postfix) == everywhere(issued.leaf)

    renew_lineage(certbot.config_dir, NAME, newer)

    printed = told_in_latin_1(certbot, "renew", *options(postfix))

    assert "Verified on " in printed
    assert served(postfix) == everywhere(newer.leaf)
