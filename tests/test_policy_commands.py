"""What certbot-postfix policy tells of the policies, and does for them."""

import json
import socket
from pathlib import Path

import pytest

from certbot_postfix import cli
from tests.lab.source import LATER
from tests.test_outbound_policies import FIRST, ONE, TWO, Sourced, scene, third
from tests.test_status import as_nobody

__all__ = ["scene", "third"]  # fixtures

pytestmark = pytest.mark.postfix


@pytest.fixture
def policy(scene: Sourced):
    """Run ``certbot-postfix policy``; return its exit status."""

    def run(*words: str) -> int:
        scene.postfix.settle()
        where = ["--postfix-config-dir", str(scene.postfix.config_dir)]
        where += ["--config-dir", str(scene.bundles.parent)]
        return cli.main([*where, "policy", *words])

    return run


def test_what_is_in_force_is_shown_with_its_end_and_its_source(scene, policy, capsys):
    scene.third.say({**ONE, **TWO})
    scene.apply()

    assert policy("show") == 0

    assert capsys.readouterr().out.splitlines() == [
        (
            "one.example.org: enforce until 2096-10-02 07:06 UTC, mx.one.example.org,"
            " .example.net (third party)"
        ),
        (
            "two.example.org: testing until 2096-10-02 07:06 UTC, mx.two.example.org"
            " (third party)"
        ),
    ]


def test_a_table_that_was_edited_does_not_fill_the_terminal(scene, policy, capsys):
    scene.third.say(ONE)
    scene.apply()
    text = scene.path.read_text().replace("third party", "p" * 2_000_000)
    names = "m" * 2_000_000 + ":" + ":".join(f"m{at}\x1b" for at in range(100_000))
    scene.path.write_text(text.replace("match=", f"match={names}:"))

    policy("show")
    policy("test", "one.example.org")

    said = capsys.readouterr().out
    assert said.count(", m0\\x1b, ") == 2
    assert said.count(" more") == 2
    assert len(said) < 30_000


def test_json_has_the_same(scene, policy, capsys):
    scene.third.say(ONE)
    scene.apply()

    assert policy("show", "--json") == 0

    assert json.loads(capsys.readouterr().out) == [
        {
            "domain": "one.example.org",
            "mode": "enforce",
            "mxs": ["mx.one.example.org", ".example.net"],
            "dane": False,
            "expires": "2096-10-02T07:06:40+00:00",
            "source": "third party",
        }
    ]


def test_without_policies_nothing_is_shown_and_nothing_refreshed(policy, capsys):
    for words, said in (
        (["show"], "there are no policies\n"),
        (["show", "--failing"], "no look-up fails\n"),
        (["refresh"], "there are no policies to refresh\n"),
    ):
        assert policy(*words) == 0
        told = capsys.readouterr()
        assert (told.out, told.err) == ("", said)


def test_refresh_brings_what_the_source_says_now(scene, policy, capsys):
    scene.third.say(ONE)
    scene.apply()
    scene.third.say({"one.example.org": ("enforce", ["other.org"], LATER)})

    assert policy("refresh") == 0

    assert scene.answer("one.example.org").startswith("secure match=other.org ")
    assert capsys.readouterr().err == ""


def test_a_source_that_fails_is_an_error_of_refresh(scene, policy, capsys):
    scene.third.say(ONE)
    scene.apply()
    scene.third.say(ONE, failure=True)

    assert policy("refresh") == 1

    told = capsys.readouterr().err
    assert told == (
        "certbot-postfix: error: the third party does not answer;"
        " its earlier policies stay in force\n"
    )
    assert scene.answer("one.example.org") == FIRST


def test_a_table_that_is_gone_is_an_error_of_refresh_and_show(scene, policy, capsys):
    scene.third.say(ONE)
    scene.apply()
    scene.path.unlink()

    for verb in ("refresh", "show"):
        assert policy(verb) == 1

        told = capsys.readouterr().err
        assert f"{scene.path} is missing, and smtp_tls_policy_maps names it" in told
        assert "Hint: certbot install" in told


@pytest.mark.parametrize("verb", ["show", "refresh"])
def test_a_table_that_main_cf_does_not_name_is_not_said_to_be_in_force(
    scene, policy, capsys, verb
):
    scene.third.say(ONE)
    scene.apply()
    scene.postfix.postconf("-X", "smtp_tls_policy_maps")

    assert policy(verb) == 3

    told = capsys.readouterr().err
    assert f"main.cf does not name {scene.path} in smtp_tls_policy_maps" in told


def test_what_is_gone_is_not_shown_as_nothing(scene, policy, capsys):
    scene.third.say(ONE)
    scene.apply()
    scene.path.unlink()

    assert policy("show") == 1

    assert f"{scene.path} is missing" in capsys.readouterr().err


def test_it_is_told_that_mail_goes_elsewhere(scene, policy, capsys):
    scene.third.say(ONE)
    scene.apply()
    scene.postfix.set(relayhost="[127.0.0.1]:1", default_transport="smtp")

    assert policy("test", "one.example.org") == 3

    told = capsys.readouterr().err
    assert "relayhost sends mail to [127.0.0.1]:1, and Postfix looks up" in told


def test_a_directory_of_certbot_that_is_not_there_is_not_made(
    scene, policy, base, capsys
):
    scene.third.say(ONE)
    scene.apply()
    where = ["--postfix-config-dir", str(scene.postfix.config_dir)]
    where += ["--config-dir", str(base / "none")]

    assert cli.main([*where, "policy", "refresh"]) == 1

    told = capsys.readouterr().err
    assert f"could not create {base}/none/postfix: there is no directory" in told
    assert "and certbot has not run here yet: mkdir -m 755" in told
    assert not (base / "none").exists()
    assert scene.answer("one.example.org") == FIRST


# test


def test_the_table_that_answers_is_named_with_what_it_means(scene, policy, capsys):
    scene.third.say(ONE)
    scene.apply()

    assert policy("test", "One.Example.ORG.") == 0

    assert capsys.readouterr().out == (
        f"texthash:{scene.path} has for one.example.org: secure, a server must have a"
        " trusted certificate with one of these names: mx.one.example.org,"
        " .example.net\n"
    )


def test_where_no_table_answers_main_cf_does(scene, policy, capsys):
    scene.third.say(ONE)
    scene.apply()

    assert policy("test", "other.example") == 0

    assert capsys.readouterr().out.startswith("main.cf has: ")


def test_the_level_is_none_where_main_cf_has_none(scene, policy, capsys):
    scene.postfix.set(smtp_tls_security_level="")

    assert policy("test", "other.example") == 0

    assert capsys.readouterr().out == "main.cf has: none, mail is sent without TLS\n"


@pytest.mark.parametrize(
    ("own", "domain", "level"),
    [
        pytest.param(".example.org none", "one.example.org", "secure", id="a parent"),
        pytest.param(".example.org none", "x.example.org", "none", id="another child"),
        pytest.param("one.example.org may", "one.example.org", "may", id="itself"),
    ],
)
def test_the_answer_is_that_of_postfix(
    scene, policy, capsys, base: Path, own, domain, level
):
    scene.third.say(ONE)
    scene.apply()
    table = base / "own"
    table.write_text(f"{own}\n")
    ours = f"texthash:{scene.path}"
    scene.postfix.set(smtp_tls_policy_maps=f"texthash:{table}, {ours}")

    assert policy("test", domain) == 0

    assert f": {level}, " in capsys.readouterr().out


def test_a_table_before_ours_that_only_postfix_asks_is_named(scene, policy, capsys):
    scene.third.say(ONE)
    scene.apply()
    first = f"randmap:{{may}}, texthash:{scene.path}"
    scene.postfix.set(smtp_tls_policy_maps=first)
    said = "randmap:{may} comes before certbot_tls_policy in smtp_tls_policy_maps"

    policy("show")
    assert said in capsys.readouterr().err

    policy("test", "one.example.org")
    assert "randmap:{may} has for one.example.org: may" in capsys.readouterr().out

    where = ["--postfix-config-dir", str(scene.postfix.config_dir)]
    cli.main([*where, "--config-dir", str(scene.bundles.parent), "status"])
    assert said in capsys.readouterr().out

    scene.apply()
    assert any(said in note for note in scene.notes)


@pytest.mark.parametrize("parameter", ["smtp_tls_policy_maps", "transport_maps"])
def test_a_table_that_does_not_answer_is_told_with_the_consequence(
    scene, policy, capsys, parameter
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"inet:127.0.0.1:{server.getsockname()[1]}"
    scene.postfix.set(**{parameter: f"socketmap:{where}:postfix"})

    assert policy("test", "example.org") == 1

    told = capsys.readouterr().err
    assert f"take it out of {parameter}" in told
    assert "does not answer, and mail to every domain is deferred" in told


@pytest.mark.parametrize("name", ["", "a b", "exa\nmple.org", "127.0.0.1"])
def test_what_is_no_domain_is_refused(policy, capsys, name):
    assert policy("test", name) == 1

    assert "is not the name of a domain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("policy", "show"), 0),
        (("policy", "test", "one.example.org"), 0),
        (("policy", "refresh"), 1),
        (("plan", "--cert-name", "x"), 1),
        (("deploy", "--cert-name", "x"), 1),
        (("forget", "x"), 1),
    ],
)
def test_root_is_demanded_only_where_files_are_read_or_changed_that_are_root_s(
    scene, words, status
):
    scene.third.say(ONE)
    scene.apply()
    where = ["--postfix-config-dir", str(scene.postfix.config_dir)]

    done = as_nobody(*words, *where)

    assert done.returncode == status, done.stderr
    assert ("this command must be run as root" in done.stderr) is bool(status)
