"""The command says what would be done, and does nothing."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from certbot_postfix import cli
from certbot_postfix.inbound import imagined
from certbot_postfix.inbound.lineage import Lineage
from tests.lab import Issued, install_lineage, pki, renew_lineage
from tests.lab.postfix import snapshot
from tests.lab.scene import private
from tests.test_main_cf import patched, shown

NAME = "mx.example.org"


@pytest.fixture
def issued(authority) -> Issued:
    return authority.issue(NAME)


@pytest.fixture
def certbot_dir(base: Path, issued: Issued) -> Path:
    """certbot's directory, with a lineage that is not deployed."""
    path = base / "letsencrypt"
    install_lineage(path, NAME, issued)
    return path


@pytest.fixture
def plan(stopped_postfix, certbot_dir):
    """Run ``certbot-postfix plan`` on the lineage; return its exit status."""

    def run(*options: str, name: str = NAME) -> int:
        where = ["--postfix-config-dir", str(stopped_postfix.config_dir)]
        where += ["--config-dir", str(certbot_dir)]
        return cli.main([*where, "plan", "--cert-name", name, *options])

    return run


def deploy(stopped_postfix, certbot_dir: Path, issued: Issued) -> Path:
    """Do by hand what the profile certificate wants."""
    bundle = certbot_dir / "postfix" / f"{NAME}.pem"
    bundle.parent.mkdir(mode=0o700)
    bundle.write_bytes(issued.bundle_pem)
    stopped_postfix.set(smtpd_tls_chain_files=str(bundle))
    stopped_postfix.postconf("-#", "smtpd_tls_cert_file", "smtpd_tls_key_file")
    stopped_postfix.settle()
    return bundle


# plan


def test_what_main_cf_and_a_certificate_say_commands_no_terminal(
    stopped_postfix, certbot_dir, authority, capsys
):
    odd = pki.edited(pki.self_signed(NAME), **pki.ODD["CN with control characters"])
    path = stopped_postfix.config_dir / "odd.pem"
    path.write_bytes(odd.bundle_pem)
    stopped_postfix.set(smtpd_tls_chain_files=str(path))
    text = stopped_postfix.main_cf.read_text()
    hostile = "# \x1b]0;evil\x07 \x9b31m\nsmtpd_tls_chain_files"
    stopped_postfix.main_cf.write_text(text.replace("smtpd_tls_chain_files", hostile))
    where = ["--postfix-config-dir", str(stopped_postfix.config_dir)]
    where += ["--config-dir", str(certbot_dir)]

    cli.main([*where, "plan", "--cert-name", NAME])
    cli.main([*where, "status"])

    said = "".join(capsys.readouterr())
    assert "\\x1b]0;evil\\x07 \\x9b31m" in said
    assert said.replace("\n", "").replace("\t", "").isprintable()


def test_the_diff_is_all_there_is_on_standard_output(
    stopped_postfix, certbot_dir, plan, capsys
):
    bundle = certbot_dir / "postfix" / f"{NAME}.pem"
    before = shown(stopped_postfix.main_cf.read_bytes())

    status = plan("--tls-profile", "certificate")

    told = capsys.readouterr()
    after = patched(before, told.out)
    assert status == 3
    assert after[-1] == f"smtpd_tls_chain_files = {bundle}"
    assert [line for line in before if line not in after] == [
        line for line in before if line.startswith(("smtpd_tls_cert", "smtpd_tls_key"))
    ]
    assert f"{bundle} would be created" in told.err


@pytest.mark.parametrize("profile", ["certificate", "opportunistic", "intermediate"])
def test_nothing_is_written(base, plan, profile):
    before = snapshot(base)

    assert plan("--tls-profile", profile, "--client-level", "encrypt") == 3

    assert of_ours(snapshot(base)) == of_ours(before)


def of_ours(entries: dict) -> dict:
    """Leave out what `postfix check` makes: the queue, and since 3.10 a log."""
    return {
        name: entry
        for name, entry in entries.items()
        if "queue" not in name and name != "maillog"
    }


def test_a_profile_that_raises_more_shows_more(plan, capsys):
    plan("--tls-profile", "intermediate")

    assert "\n+smtpd_tls_auth_only = yes\n" in capsys.readouterr().out


def test_a_client_level_is_shown(plan, capsys):
    plan("--client-level", "encrypt")

    assert "\n+smtp_tls_security_level = encrypt\n" in capsys.readouterr().out


def test_what_is_deployed_needs_no_plan(
    stopped_postfix, certbot_dir, issued, plan, capsys
):
    deploy(stopped_postfix, certbot_dir, issued)

    status = plan()

    out, talk = capsys.readouterr()
    assert (status, out) == (0, "")
    assert "would be" not in talk


def test_a_renewed_lineage_needs_no_change_of_main_cf_but_a_bundle(
    stopped_postfix, certbot_dir, authority, issued, plan, capsys
):
    bundle = deploy(stopped_postfix, certbot_dir, issued)
    renew_lineage(certbot_dir, NAME, authority.issue(NAME))

    status = plan()

    out, talk = capsys.readouterr()
    assert (status, out) == (3, "")
    assert talk.endswith(f"{bundle} would be updated\n")
    assert bundle.read_bytes() == issued.bundle_pem


def test_what_is_kept_and_overridden_is_talk(stopped_postfix, plan, capsys):
    stopped_postfix.set(smtp_tls_security_level="dane")

    plan("--client-level", "encrypt", "--tls-profile", "intermediate", "-v")

    out, talk = capsys.readouterr()
    submission = f"127.0.0.1:{stopped_postfix.ports['submission']}/inet"
    assert "smtp_tls_security_level: keeping dane" in talk
    hidden = f"master.cf overrides smtpd_tls_security_level for {submission}"
    assert f"{hidden} (value: encrypt)" in talk
    assert "keeping" not in out


def test_what_master_cf_has_less_strict_is_told(stopped_postfix, plan, capsys):
    submission = f"127.0.0.1:{stopped_postfix.ports['submission']}/inet"
    name = "smtpd_tls_mandatory_protocols"
    stopped_postfix.postconf("-P", f"{submission}/{name}=!SSLv2")

    plan("--tls-profile", "intermediate")

    told = f"master.cf overrides {name} for {submission} (value: !SSLv2)"
    assert told in capsys.readouterr().err


def test_what_master_cf_has_as_strict_is_told_with_v_only(plan, capsys):
    plan()

    assert "overrides" not in capsys.readouterr().err


@pytest.mark.parametrize("host", [NAME, "mail.example.org"])
def test_what_status_would_say_of_the_default_is_said_before(
    stopped_postfix, certbot_dir, plan, host, capsys
):
    stopped_postfix.set(myhostname=host)
    settings = certbot_dir / f"renewal/{NAME}.conf"
    text = settings.read_text()
    settings.write_text(text.replace("= standalone", "= dns-rfc2136"))

    plan()

    warning = (
        f"the default certificate ({NAME}) does not cover myhostname ({host}): clients"
        " that check the name will reject it\nHint: obtain it again with that name:"
        f" certbot run -a dns-rfc2136 -i postfix --cert-name {NAME} -d {NAME},{host}"
        f" --postfix-config-dir {stopped_postfix.config_dir}\n"
    )
    assert (warning in capsys.readouterr().err) is (host != NAME)


# Without a certificate


def test_the_plan_for_a_certificate_that_is_not_there_is_that_of_one_that_is(
    base, stopped_postfix, certbot_dir, plan, capsys
):
    plan("--tls-profile", "intermediate")
    with_certificate = capsys.readouterr().out
    nothing = certbot_dir.rename(base / "gone").with_name("letsencrypt")
    before = snapshot(base)
    where = ["--postfix-config-dir", str(stopped_postfix.config_dir)]
    where += ["--config-dir", str(nothing)]

    status = cli.main([*where, "plan", "-d", NAME, "--tls-profile", "intermediate"])

    out, talk = capsys.readouterr()
    assert status == 3
    assert out == with_certificate
    assert f"certbot has no certificate for {NAME}; this is the plan" in talk
    assert of_ours(snapshot(base)) == of_ours(before)


def test_a_certificate_that_is_there_is_not_imagined(certbot_dir, authority, capsys):
    names = ("a.example.org", "b.example.org")
    install_lineage(certbot_dir, "both", authority.issue(*names))
    live = certbot_dir / "live"
    there = [Lineage.live(live, each) for each in (NAME, "both")]

    assert imagined.choose(live, there, names[::-1]).name == "both"
    assert imagined.choose(live, there, names[:1]).name == names[0]
    # As certbot names a further one.
    assert imagined.choose(live, there, [f"*.{NAME}"]).name == f"{NAME}-0001"
    assert imagined.choose(live, there, names, "own").name == "own"


@pytest.mark.parametrize("name", ["not a host", "192.0.2.1", ""])
def test_what_no_certificate_can_be_for_is_refused(plan, name, capsys):
    assert plan("-d", name) == 1

    assert "not the names of hosts" in capsys.readouterr().err


@pytest.mark.postfix  # sources are found once the package is installed
def test_policies_are_planned_with_the_certificate_and_nothing_is_written(
    base, stopped_postfix, plan, capsys
):
    policy = {"mode": "enforce", "mxs": ["mx.one.example.org"]}
    policies = {"one.example.org": policy}
    content = {"version": "0.1", "timestamp": time.time() - 60}
    content["expires"] = time.time() + 86400
    (base / "list.json").write_text(json.dumps({**content, "policies": policies}))
    before = snapshot(base)

    status = plan("--policy-list", str(base / "list.json"))

    out, _ = capsys.readouterr()
    assert status == 3
    assert "\n+one.example.org secure match=mx.one.example.org" in out
    assert "\n+smtp_tls_policy_maps = " in out
    assert "\n+smtpd_tls_chain_files = " in out
    assert of_ours(snapshot(base)) == of_ours(before)


# By name

OTHER = "www.example.org"


@pytest.fixture
def other(stopped_postfix, certbot_dir, authority, issued) -> Path:
    """The bundle that a lineage without the server's name will have."""
    deploy(stopped_postfix, certbot_dir, issued)
    install_lineage(certbot_dir, OTHER, authority.issue(OTHER))
    return certbot_dir / "postfix" / f"{OTHER}.pem"


def test_the_table_is_shown_before_main_cf_which_names_it(
    base, stopped_postfix, certbot_dir, plan, other, capsys
):
    before, table = snapshot(base), stopped_postfix.config_dir / "certbot_sni"

    status = plan(name=OTHER)

    out, talk = capsys.readouterr()
    first, second = out.split(f"--- {stopped_postfix.main_cf}\n")
    assert status == 3
    assert first.startswith(f"--- {table}\n+++ (planned)\n")
    assert f"\n+{OTHER} {other}\n" in first
    assert f"\n+{NAME} {other.with_name(f'{NAME}.pem')}\n" in first
    assert f"\n+tls_server_sni_maps = texthash:{table}\n" in second
    assert "\n-" not in out.replace("\n---", "")
    assert "\n+smtpd_tls_chain_files" not in out
    assert f"{other} would be created" in talk
    assert of_ours(snapshot(base)) == of_ours(before)


def test_what_is_served_via_sni_only_is_told_with_the_reason(plan, other, capsys):
    plan(name=OTHER)

    talk = capsys.readouterr().err
    assert f"{OTHER} is served via SNI only" in talk
    assert f"does not cover myhostname ({NAME})" in talk
    assert "most mail servers send no server name" in talk


def test_an_address_among_the_names_is_told(certbot_dir, authority, plan, capsys):
    renew_lineage(certbot_dir, NAME, authority.issue(NAME, "192.0.2.1"))

    plan()

    assert "address 192.0.2.1 among its names" in capsys.readouterr().err


def test_a_name_that_postfix_cannot_list_is_refused_with_the_way_out(
    certbot_dir, authority, plan, capsys
):
    install_lineage(certbot_dir, "my server", authority.issue(NAME))

    assert plan(name="my server") == 1

    assert "another --cert-name" in capsys.readouterr().err


def test_what_may_not_be_served_by_name_is_refused_with_a_hint(plan, other, capsys):
    status = plan("--sni", "never", name=OTHER)

    out, error = capsys.readouterr()
    message, hint = error.splitlines()
    assert (status, out) == (1, "")
    assert f"not this server's name ({NAME})" in message
    assert "--postfix-sni never rules out serving it via SNI" in message
    assert "--postfix-sni auto" in hint


def test_a_table_of_somebody_else_s_stops_the_plan(
    stopped_postfix, plan, other, capsys
):
    table = stopped_postfix.config_dir / "certbot_sni"
    table.write_text("mine.org /mine.pem\n")

    status = plan(name=OTHER)

    out, error = capsys.readouterr()
    assert (status, out) == (1, "")
    assert f"{table} was not written by this plugin" in error


def test_who_is_answered_by_a_table_of_the_administrator_s_is_told(
    base, stopped_postfix, plan, other, capsys
):
    own = f"texthash:{base}/own"
    (base / "own").write_text(f"{OTHER} /own.pem\n")
    stopped_postfix.set(tls_server_sni_maps=own)

    plan(name=OTHER)

    out, talk = capsys.readouterr()
    assert (
        f"{own} in main.cf already has an entry for {OTHER} and takes precedence"
        in talk
    )
    assert f"+tls_server_sni_maps = {own}, texthash:" in out


def test_no_key_is_told(plan, issued, capsys):
    plan("--tls-profile", "intermediate")

    told = "".join(capsys.readouterr())
    secret = issued.key_pem.decode().splitlines()[1:-1]
    assert not [line for line in secret if line in told]


# Errors


def test_a_lineage_that_is_missing_is_named_with_those_that_there_are(
    plan, certbot_dir, authority, capsys
):
    install_lineage(certbot_dir, OTHER, authority.issue(OTHER))

    status = plan(name="nobody.example.org")

    out, error = capsys.readouterr()
    assert (status, out) == (1, "")
    assert error == (
        "certbot-postfix: error: no certificate named nobody.example.org in"
        f" {certbot_dir}/live. Available: {NAME} and {OTHER}\n"
    )


def test_a_configuration_that_postfix_cannot_read_is_an_error_with_a_hint(
    stopped_postfix, plan, capsys
):
    stopped_postfix.main_cf.write_text("no equals sign\n")
    stopped_postfix.settle()

    status = plan()

    out, error = capsys.readouterr()
    assert (status, out) == (1, "")
    message, hint = error.splitlines()
    assert message.startswith("certbot-postfix: error: Postfix cannot read ")
    assert "main.cf, line 1: missing '='" in message
    assert hint.startswith("Hint: ")


def test_a_directory_in_a_circle_of_links_is_an_error_with_a_hint(tmp_path, capsys):
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    where = ["--postfix-config-dir", str(circle), "--config-dir", str(circle)]

    assert cli.main([*where, "status"]) == 1

    output = capsys.readouterr().err
    assert f"Postfix cannot read its configuration in {circle}" in output
    assert "Hint: is this the configuration directory of Postfix?" in output


def test_a_certificate_that_must_not_be_deployed_is_an_error(
    certbot_dir, authority, plan, capsys
):
    renew_lineage(
        certbot_dir,
        NAME,
        Issued(authority.issue(NAME).cert_pem, b"", authority.issue(NAME).key_pem),
    )

    status = plan()

    out, error = capsys.readouterr()
    assert (status, out) == (1, "")
    assert f"lineage {NAME}: the private key does not belong" in error


def test_whose_key_is_to_change_is_named_unless_one_certificate_is_used_alone(
    stopped_postfix, certbot_dir, authority, issued, capsys
):
    where = ["--postfix-config-dir", str(stopped_postfix.config_dir)]
    stage = [*where, "--config-dir", str(certbot_dir), "tlsa", "stage"]

    assert cli.main([*stage, "--cert-name", NAME]) == 1
    assert f"Postfix does not use the certificate {NAME}" in capsys.readouterr().err
    assert cli.main(stage) == 1
    assert "Postfix uses no certificates from certbot\n" in capsys.readouterr().err

    bundle = deploy(stopped_postfix, certbot_dir, issued)
    second = private(bundle.with_name("second.pem"), authority.issue(OTHER))
    stopped_postfix.set(smtpd_tls_chain_files=f"{bundle}, {second}")
    stopped_postfix.settle()
    assert cli.main(stage) == 1
    told = capsys.readouterr().err
    assert "Postfix uses 2 certificates from certbot\n" in told
    assert f"Hint: use --cert-name with one of {NAME} and second\n" in told


def test_without_a_certificate_there_is_no_host_with_tlsa_records(
    stopped_postfix, certbot_dir, capsys
):
    stopped_postfix.postconf("-#", "smtpd_tls_cert_file", "smtpd_tls_key_file")
    stopped_postfix.settle()
    where = ["--postfix-config-dir", str(stopped_postfix.config_dir)]

    assert cli.main([*where, "--config-dir", str(certbot_dir), "tlsa", "show"]) == 0

    told = "no certificate is in service for a host in DNS\n"
    assert capsys.readouterr() == ("", told)


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan"],
        ["forget"],
        ["forget", NAME, "--cert-name", f"other.{NAME}"],
        ["plan", "--cert-name", NAME, "--tls-profile", "modern"],
        ["plan", "--cert-name", NAME, "--client-level", "dane-only"],
        ["plan", "--cert-name", NAME, "--sni", "always"],
        ["status", "--timeout", "0"],
        ["records", "example org"],
        ["records", "example.org", "--rua", "ftp://example.org"],
    ],
)
def test_wrong_usage_is_told_with_exit_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)

    assert caught.value.code == 2
    assert "usage: certbot-postfix" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "wrong", "meant"),
    [
        (["stauts"], "unknown command: stauts", "did you mean status?"),
        (["policy", "shw"], "unknown command: shw", "did you mean show?"),
        (["unheard-of"], "unknown command: unheard-of", ""),
        (["plan", "--cert-nme", NAME], "--cert-nme", "did you mean --cert-name?"),
        (["plan", "--cert-nme=x"], "--cert-nme", "did you mean --cert-name?"),
        (["--cofig-dir", "x", "plan"], "--cofig-dir", "did you mean --config-dir?"),
        (["plan", "--cert", NAME], "unknown option: --cert\n", "--cert-name?"),
        (["plan", "--tls-profile", "intermediat"], "'intermediat'", "intermediate?"),
        (["status", "unheard-of"], "unexpected argument: unheard-of", ""),
        (["records", "-v", "a.org", "b.org"], "unexpected argument: b.org", ""),
        (["deploy", "--verify-timeout", "9h"], "9h is not a number from 0 to 3600", ""),
        (
            ["tlsa", "advance", "--tlsa-roll-every", "90"],
            "90 is not a number of days",
            "",
        ),
        (["records", "--dane-resolver", "ns"], "ns is not an IP address", ""),
        (
            ["records", "--tlsa-min-ttl", "1h"],
            "1h is not a number from 0 to 604800",
            "",
        ),
        (["records", "--tlsa-min-ttl", "604801"], "604801 is not a number from 0", ""),
        # What it was before the first release.
        (
            ["--certbot-config-dir", "x", "plan"],
            "--certbot-config-dir",
            "--config-dir is certbot's directory",
        ),
    ],
)
def test_what_was_misspelt_is_named_with_what_was_meant(
    arguments, wrong, meant, capsys
):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)

    _, error = capsys.readouterr()
    message, _, hint = error.partition("error: ")[2].partition("\nHint: ")
    assert caught.value.code == 2
    assert wrong in f"{message}\n"
    assert meant in hint
    assert bool(meant) == bool(hint)


def test_postfix_s_directory_is_not_taken_for_certbot_s(stopped_postfix, capsys):
    there = str(stopped_postfix.config_dir)

    with pytest.raises(SystemExit) as caught:
        cli.main(["--config-dir", there, "status"])

    assert caught.value.code == 2
    assert f"Hint: use --postfix-config-dir {there}" in capsys.readouterr().err


def test_directories_may_be_named_after_the_command_as_well(
    stopped_postfix, certbot_dir, plan, capsys
):
    postfix = ["--postfix-config-dir", str(stopped_postfix.config_dir)]
    certbot = ["--config-dir", str(certbot_dir)]
    plan()
    before = capsys.readouterr()

    cli.main(["plan", "--cert-name", NAME, *postfix, *certbot])
    after = capsys.readouterr()
    cli.main([*certbot, "plan", "--cert-name", NAME, *postfix])

    assert before.out
    assert after == before
    assert capsys.readouterr() == before


@pytest.mark.parametrize("words", [[], ["policy"]])
def test_without_a_command_the_help_is_printed_as_a_message(words, capsys):
    assert cli.main(words) == 2

    out, error = capsys.readouterr()
    assert out == ""
    assert "show this help message" in error
    assert error.startswith(f"usage: {' '.join(['certbot-postfix', *words])}")


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"]])
def test_help_is_data(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)

    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: certbot-postfix")


def test_the_command_runs_as_a_module(base, certbot_dir):
    command = [sys.executable, "-m", "certbot_postfix.cli"]
    command += ["--config-dir", str(certbot_dir)]
    command += ["--postfix-config-dir", str(base / "none")]
    done = subprocess.run(
        [*command, "plan", "--cert-name", NAME],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
        env={"PATH": "/usr/bin:/bin"},  # cron's, without postconf
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("certbot-postfix: error: Postfix cannot read")
