"""Policies enter Postfix, are kept up to date, and leave, as the options say."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from certbot_postfix.errors import Error
from certbot_postfix.inbound.session import Deployment
from certbot_postfix.outbound import last_refresh, policy_file
from certbot_postfix.outbound.send_only import Proposal, SendOnly
from certbot_postfix.outbound.sources import Settings
from certbot_postfix.outbound.update import Outbound
from certbot_postfix.postfix.databases import Databases
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import files
from tests.lab import (
    Certbot,
    PrivatePostfix,
    install_lineage,
    pki,
    renew_lineage,
)
from tests.lab.following import Following
from tests.lab.machine import wait_until
from tests.lab.postfix import snapshot
from tests.lab.source import LATER, ThirdParty
from tests.test_lists import written

ONE = {"one.example.org": ("enforce", ["mx.one.example.org", ".example.net"], LATER)}
TWO = {"two.example.org": ("testing", ["mx.two.example.org"], LATER)}
FIRST = "secure match=mx.one.example.org:.example.net servername=hostname"

pytestmark = pytest.mark.postfix


class Sourced(Following):
    """A Postfix, and a source of policies that somebody else has written."""

    def __init__(self, postfix: PrivatePostfix, base: Path, third: ThirdParty) -> None:
        super().__init__(postfix)
        self.third = third
        self.bundles = base / "letsencrypt" / "postfix"
        self.bundles.parent.mkdir(exist_ok=True)
        self.now = datetime.now(timezone.utc)
        self.notes: list[str] = []
        self.told: list[str] = []
        self.domains = base / "domains"  # which the third party takes as its own
        self.domains.touch()

    @property
    def outbound(self) -> Outbound:
        """What a new run of the product would have."""
        postfix = Postfix(self.postfix.config_dir)
        return Deployment(postfix, self.bundles).outbound

    def apply(self, wanted: Settings | None = None) -> Proposal:
        """Do what the installer does with options that say what is *wanted*."""
        wanted = wanted or Settings(domains=str(self.domains))
        self.postfix.settle()
        device = self.outbound
        policies = device.collect(wanted, self.now)
        self.notes, self.told = policies.notes, policies.complaints
        alone = SendOnly(device)
        proposal = alone.propose(policies)
        if not proposal.empty:
            alone.carry_out(proposal)
        self.postfix.settle()
        return proposal

    def refresh(self) -> list[str]:
        """Do what certbot renew does, if it is due; return what failed."""
        device = self.outbound
        return device.refresh(self.now) if device.collector.due(self.now) else []


@pytest.fixture
def third(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThirdParty]:
    party = ThirdParty(base / "third")
    monkeypatch.syspath_prepend(str(party.directory))
    yield party
    sys.modules.pop("third_party_policies", None)


@pytest.fixture
def scene(stopped_postfix: PrivatePostfix, base: Path, third: ThirdParty) -> Sourced:
    return Sourced(stopped_postfix, base, third)


def test_policies_enter_postfix_and_a_second_time_there_is_nothing_to_do(scene):
    scene.third.say({**ONE, **TWO})

    scene.apply()

    assert scene.answer("one.example.org") == FIRST
    assert scene.answer("two.example.org") == ""
    assert scene.path.stat().st_mode & 0o777 == 0o644
    assert scene.apply().empty


def test_the_client_gets_authorities_to_judge_by(scene):
    scene.postfix.postconf("-X", "smtp_tls_CApath")
    scene.third.say(ONE)

    scene.apply()

    found = Postfix(scene.postfix.config_dir).value("smtp_tls_CAfile")
    assert found == "/etc/ssl/certs/ca-certificates.crt"


AUTHORITIES = Path("/etc/ssl/certs")


def authorities(scene) -> list[str]:
    """Return what the client has: a file of authorities, and a directory."""
    names = ("smtp_tls_CAfile", "smtp_tls_CApath")
    return [Postfix(scene.postfix.config_dir).value(name) for name in names]


@pytest.mark.parametrize("chrooted", [False, True])
def test_a_client_in_a_chroot_does_not_depend_on_a_copy_of_the_authorities(
    scene, chrooted
):
    scene.postfix.postconf("-X", "smtp_tls_CAfile")
    scene.postfix.set(smtp_tls_CApath=str(AUTHORITIES))
    scene.postfix.postconf("-F", f"smtp/unix/chroot={'y' if chrooted else 'n'}")
    scene.third.say(ONE)

    scene.apply()

    named = str(AUTHORITIES / "ca-certificates.crt") if chrooted else ""
    assert authorities(scene) == [named, str(AUTHORITIES)]


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_of_authorities_is_left_alone_unless_it_is_empty(
    scene, base, there
):
    (base / "own").mkdir()
    (base / "own" / ("1a2b3c4d.0" if there else "root.pem")).touch()
    scene.postfix.postconf("-X", "smtp_tls_CAfile")
    scene.postfix.set(smtp_tls_CApath=str(base / "own"))
    scene.third.say(ONE)

    if there:
        scene.apply()
    else:
        with pytest.raises(Error, match="own has no CAs: no server could"):
            scene.apply()

    assert authorities(scene) == ["", str(base / "own")]


def test_without_a_bundle_that_is_one_no_policy_is_written(scene, base, authority):
    chain = base / "chain.pem"
    chain.write_bytes(authority.issue("mx.example.org").fullchain_pem)
    scene.postfix.set(smtp_tls_CAfile=str(chain))
    scene.third.say(ONE)
    before = snapshot(scene.postfix.config_dir)

    with pytest.raises(Error, match="holds no root certificate of a CA"):
        scene.apply()

    assert snapshot(scene.postfix.config_dir) == before


@pytest.mark.parametrize("others", [True, False])
def test_a_root_that_cryptography_refuses_does_not_freeze_the_policies(
    scene, base, authority, others
):
    odd = pki.edited(pki.self_signed("Old Root"), **pki.ODD["version 4"])
    path = base / "roots.pem"
    path.write_bytes(odd.cert_pem + (authority.root_pem if others else b""))
    scene.postfix.set(smtp_tls_CAfile=str(path))
    scene.third.say(ONE)

    scene.apply()

    assert scene.answer("one.example.org") == FIRST


def test_a_client_that_asks_for_more_is_left_alone(scene):
    scene.postfix.set(smtp_tls_security_level="dane-only")
    scene.third.say(ONE)

    with pytest.raises(Error, match="dane-only is already at least as strict"):
        scene.apply()


def untrusted(scene, base) -> dict[str, str]:
    chain = base / "chain.pem"
    chain.write_bytes(b"nothing\n")
    return {"smtp_tls_CAfile": str(chain)}


def stricter(*_: object) -> dict[str, str]:
    return {"smtp_tls_security_level": "secure"}


def broken(scene, base) -> dict[str, str]:
    return {"smtp_tls_policy_maps": f"hash:{base}/none, hash:{scene.path}"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (untrusted, "holds no root certificate of a CA"),
        (stricter, "secure is already at least as strict as any policy"),
        (broken, "/none does not answer, and mail to every domain is deferred"),
    ],
)
def test_what_comes_to_stand_against_policies_is_told_and_they_stay_until_they_end(
    scene, base, change, told
):
    ending = {"soon.example.org": ("enforce", ["mx.org"], 1_900_000_000)}
    scene.third.say({**ONE, **ending})
    scene.apply()
    scene.postfix.set(**change(scene, base))

    scene.apply()  # a certificate is deployed, and nothing said of policies

    assert [told in each for each in scene.told] == [True]
    scene.now = datetime.fromtimestamp(1_900_000_001, timezone.utc)
    assert [told in each for each in scene.refresh()] == [True]
    assert policy_file.enforced(scene.path) == ["one.example.org"]
    (failure,) = last_refresh.failures(
        last_refresh.cache_directory(scene.path, scene.bundles)
    )
    assert told in failure


# The administrator's own tables


@pytest.mark.parametrize(
    ("form", "key"),
    [
        ("texthash:{0}", "one.example.org"),
        ("texthash:{0}", ".example.org"),
        ("texthash:{0}", ".org"),
        ("unionmap:{{inline:{{a=b}},texthash:{0}}}", ".org"),
    ],
)
def test_an_entry_of_the_administrator_stays_and_is_told(scene, base, form, key):
    path = base / "own"
    path.write_text(f"{key} may\n")
    own = form.format(path)
    scene.postfix.set(smtp_tls_policy_maps=own)
    scene.third.say({**ONE, "other.example.net": ("enforce", ["mx.net"], LATER)})

    scene.apply()

    assert scene.notes == [f"{own} has an entry for one.example.org: left unchanged"]
    assert policy_file.enforced(scene.path) == ["other.example.net"]
    value = Postfix(scene.postfix.config_dir).value("smtp_tls_policy_maps")
    assert value == f"{own}, texthash:{scene.path}"


def test_it_is_told_that_policies_do_not_matter_where_mail_goes_elsewhere(scene):
    scene.postfix.set(relayhost="[127.0.0.1]:1", default_transport="smtp")
    scene.third.say(ONE)

    scene.apply()

    (note,) = scene.notes
    assert note.startswith("policies for one.example.org have no effect: relayhost")


def test_it_is_told_where_master_cf_hides_the_table(scene):
    scene.postfix.postconf("-P", "smtp/unix/smtp_tls_policy_maps=")
    scene.third.say(ONE)

    scene.apply()

    (note,) = scene.notes
    assert note.startswith("master.cf overrides smtp_tls_policy_maps for smtp/unix")


def test_a_table_that_somebody_else_wrote_is_not_overwritten(scene):
    scene.path.write_text("example.org none\n")
    scene.third.say(ONE)

    with pytest.raises(Error, match="was not written by this plugin, and is left"):
        scene.apply()

    assert scene.path.read_text() == "example.org none\n"


# Refreshed


@pytest.mark.parametrize("form", ["hash", "btree", "lmdb", "cdb", "texthash"])
def test_what_the_source_says_later_is_followed(scene, form):
    scene.follow(form)
    scene.third.say(ONE)
    scene.apply()
    scene.third.say({"one.example.org": ("enforce", ["other.org"], LATER), **TWO})
    before = scene.postfix.main_cf.read_bytes()

    assert scene.refresh() == []

    wanted = "secure match=other.org servername=hostname"
    assert scene.answer("one.example.org") == wanted
    assert scene.postfix.main_cf.read_bytes() == before
    assert not list(scene.postfix.config_dir.glob(".certbot_tls_policy*"))


def test_a_type_that_is_not_usual_any_more_is_kept_until_an_installation_moves_it(
    certbot, scene, caplog
):
    scene.follow("hash")
    scene.third.say(ONE)
    scene.apply()
    scene.postfix.set(default_database_type="cdb")
    scene.postfix.settle()
    scene.third.say(TWO | ONE)

    assert scene.refresh() == []

    (told,) = caplog.messages
    assert "Hint: certbot install -i postfix --cert-name NAME" in told
    assert scene.answer("one.example.org") == FIRST

    install(certbot, scene)

    value = Postfix(scene.postfix.config_dir).value("smtp_tls_policy_maps")
    assert value == f"texthash:{scene.path}"
    assert Databases(scene.path).existing() == []
    assert scene.answer("one.example.org") == FIRST

    directory = ("--postfix-config-dir", str(scene.postfix.config_dir))
    done = certbot("rollback", "-i", "postfix", *directory)

    assert done.returncode == 0, done.stderr
    value = Postfix(scene.postfix.config_dir).value("smtp_tls_policy_maps")
    assert value == f"hash:{scene.path}"
    assert scene.answer("one.example.org") == FIRST


def test_a_refresh_reloads_a_postfix_that_runs_only_if_something_changed(scene):
    scene.third.say(ONE)
    scene.apply()
    scene.postfix.start()

    scene.refresh()
    assert "reload" not in scene.postfix.log()
    scene.third.say(TWO)
    scene.refresh()

    scene.postfix.await_log("reload")


def test_a_policy_that_ends_leaves_the_table_though_no_source_is_due(scene):
    scene.third.say({"one.example.org": (*ONE["one.example.org"][:2], 1_900_000_000)})
    scene.apply()

    scene.now = datetime.fromtimestamp(1_900_000_001, timezone.utc)
    scene.refresh()

    assert scene.answer("one.example.org") == ""


def test_a_source_that_fails_is_told_and_what_it_said_stays(scene):
    scene.third.say(ONE)
    scene.apply()
    scene.third.say(ONE, failure=True)

    told = ["the third party does not answer; its earlier policies stay in force"]
    assert scene.refresh() == told
    assert scene.refresh() == told
    assert scene.answer("one.example.org") == FIRST


def test_a_source_that_has_lost_what_it_was_told_is_told_and_that_stays(scene):
    scene.third.say(ONE)
    scene.apply()
    scene.third.say({}, unreadable=True)

    (told,) = scene.refresh()
    assert told.startswith("the third party has lost what it was told; its")
    assert scene.answer("one.example.org") == FIRST


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("raise RuntimeError('no such thing')", id="cannot be loaded"),
        pytest.param("sources = lambda context: [object()]", id="is no source"),
        pytest.param("sources = None", id="cannot be called"),
    ],
)
def test_a_source_that_is_broken_is_named_and_what_it_said_stays(scene, line):
    scene.third.say(ONE)
    scene.apply()
    sys.modules.pop("third_party_policies")
    scene.third.break_(line)

    (told,) = scene.refresh()

    assert told.startswith(
        "the source of policies third (third_party_policies:sources) is broken"
    )
    assert scene.answer("one.example.org") == FIRST


@pytest.mark.parametrize("form", ["lmdb", "texthash"])
def test_a_refresh_makes_the_database_that_main_cf_names_now(scene, form):
    scene.third.say(ONE)
    scene.apply()
    scene.postfix.set(smtp_tls_policy_maps=f"{form}:{scene.path}")
    scene.postfix.settle()

    assert scene.refresh() == []

    assert scene.answer("one.example.org") == FIRST


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"# Outbound", b"# F\xfcr", id="the first line"),
        pytest.param(b"# {", b'# "abc" {', id="what is wanted"),
        pytest.param(b" secure match", b"", id="an entry cut short"),
    ],
)
def test_a_table_that_was_edited_is_a_clear_error(scene, old, new):
    scene.third.say(ONE)
    scene.apply()
    text = scene.path.read_bytes()
    cut = text[: text.index(old)] + new
    scene.path.write_bytes(cut if not new else text.replace(old, new, 1))

    with pytest.raises(
        Error, match=r"was not written by|was edited, and its (entry|third line)"
    ):
        _ = scene.outbound.collector.settings(), [*policy_file.entries(scene.path)]


def test_another_encoding_in_a_comment_does_no_harm(scene):
    scene.third.say(ONE)
    scene.apply()
    with scene.path.open("ab") as file:
        file.write(b"# f\xfcr uns\n")

    assert policy_file.enforced(scene.path) == ["one.example.org"]
    assert scene.refresh() == []


def test_a_refresh_that_is_told_to_end_is_undone_and_ends_the_process(scene, base):
    scene.third.say(ONE)
    scene.apply()
    scene.follow("hash")
    scene.refresh()
    scene.postfix.start()
    before = scene.path.read_bytes()
    control = base / "postfix-that-kills"
    control.write_text(
        f'#!/bin/sh\n[ "$3" != reload ] || ! mkdir {control}.once || kill -TERM $PPID\n'
        'exec postfix "$@"\n'
    )
    control.chmod(0o755)
    postfix = Postfix(scene.postfix.config_dir, postfix=str(control))
    scene.third.say(TWO)

    with pytest.raises(SystemExit, match="143"):
        Deployment(postfix, scene.bundles).outbound.refresh(scene.now)

    assert scene.answer("one.example.org") == FIRST
    assert scene.path.read_bytes() == before


def test_a_missing_database_is_made_again(scene):
    scene.follow("hash")
    scene.third.say(ONE)
    scene.apply()
    (database,) = Databases(scene.path).existing()
    database.unlink()

    scene.refresh()

    assert scene.answer("one.example.org") == FIRST


def test_where_main_cf_does_not_name_the_table_it_is_left_alone(scene, caplog):
    scene.third.say(ONE)
    scene.apply()
    scene.postfix.set(smtp_tls_policy_maps="")
    scene.postfix.settle()
    scene.third.say(TWO)
    before = snapshot(scene.postfix.config_dir)

    scene.refresh()

    assert snapshot(scene.postfix.config_dir) == before
    assert "its policies have no effect" in caplog.text


def test_what_was_killed_before_postfix_was_told_is_told_again(scene):
    scene.follow("hash")
    scene.third.say(ONE)
    scene.apply()
    (database,) = Databases(scene.path).existing()
    files.back_up(database)  # as it is until Postfix was reloaded
    scene.postfix.start()

    scene.refresh()

    scene.postfix.await_log("reload")
    assert not list(scene.postfix.config_dir.glob(".certbot_tls_policy*"))


def test_what_sources_said_is_for_root_alone(scene):
    scene.third.say(ONE)

    scene.apply()

    (kept,) = (scene.bundles / "policies").iterdir()
    for directory in (scene.bundles, kept.parent, kept):
        assert directory.stat().st_mode & 0o777 == 0o700


# What is wanted later


@pytest.fixture
def listed(scene: Sourced, base: Path) -> Path:
    """A list that is in force."""
    path = base / "list.json"
    path.write_bytes(written("listed.example.org"))
    scene.apply(Settings((str(path),)))
    assert scene.answer("listed.example.org") == LISTED
    return path


LISTED = "secure match=mx.org servername=hostname"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        pytest.param({"lists": ("{base}/none",)}, "could not read", id="no file"),
        pytest.param({"lists": ("{base}/empty",)}, "is not JSON", id="an empty file"),
        pytest.param({"lists": ("{base}/old",)}, "expired on", id="expired"),
        pytest.param(
            {"lists": ("http://localhost/",)}, "only an https URL", id="clear text"
        ),
        pytest.param({"lists": ("file:///list",)}, "only an https URL", id="file"),
        pytest.param(
            {"lists": ("{base}/list.json",), "keyring": "{base}/empty"},
            "could not read {base}/list.json.asc",
            id="unsigned",
        ),
        pytest.param(
            {"lists": ("{base}/list.json",), "keyring": "{base}/none"},
            "could not read {base}/none",
            id="no keyring",
        ),
        pytest.param({"domains": "{base}/none"}, "could not read", id="no domains"),
        pytest.param({"domains": "{base}/rubbish"}, "line 1: ", id="no domain"),
    ],
)
def test_who_replaces_what_is_in_force_by_what_fails_loses_nothing(
    scene, base, listed, wrong, told
):
    (base / "empty").touch()
    (base / "rubbish").write_text("exa mple\n")
    (base / "old").write_bytes(written("listed.example.org", until=-0.5))
    before = scene.path.read_bytes()
    where = {"base": base}
    wanted = {
        name: tuple(each.format(**where) for each in value)
        if isinstance(value, tuple)
        else value.format(**where)
        for name, value in wrong.items()
    }

    assert scene.apply(Settings(**wanted)).empty

    assert scene.path.read_bytes() == before
    assert told.format(**where) in scene.told[0]
    assert "; no earlier policies from this source are available" in scene.told[0]
    assert scene.told[-1].startswith("the policy options were not changed")
    directory = last_refresh.cache_directory(scene.path, scene.bundles)
    assert last_refresh.failures(directory) == scene.told


def test_what_is_enforced_is_not_only_tested_because_a_list_fails(scene, base, listed):
    (base / "tested.json").write_bytes(written("listed.example.org", mode="testing"))
    before = scene.path.read_bytes()

    scene.apply(Settings((str(base / "tested.json"), str(base / "none"))))

    assert scene.path.read_bytes() == before
    assert scene.told[-1].startswith("the policy options were not changed")


def test_a_socket_that_only_root_may_reach_is_not_named(scene):
    with pytest.raises(Error, match="cannot be verified from here: it is not named"):
        scene.outbound.collect(Settings(), scene.now, "socketmap:unix:/run/x:postfix")


def test_a_list_that_fails_is_kept_in_mind_where_nothing_is_lost_by_that(
    scene, base, listed
):
    wanted = Settings((str(listed), str(base / "later.json")))

    scene.apply(wanted)

    assert scene.answer("listed.example.org") == LISTED
    assert len(scene.told) == 1
    (base / "later.json").write_bytes(written("later.example.org"))
    assert scene.refresh() == []
    assert scene.answer("later.example.org") == LISTED
    assert (
        last_refresh.failures(last_refresh.cache_directory(scene.path, scene.bundles))
        == []
    )


def listing(*domains: str) -> bytes:
    """Return a list whose *domains* have a thousand servers, all the same."""
    servers = [f"{'m' * 60}.{'m' * 60}.{'m' * 60}.{at}.org" for at in range(1000)]
    found = json.loads(written())
    found["policy-aliases"] = {"big": {"mode": "enforce", "mxs": servers}}
    found["policies"] = {domain: {"policy-alias": "big"} for domain in domains}
    return json.dumps(found).encode()


def test_lists_that_are_too_long_together_are_told_and_the_table_is_left_unchanged(
    scene, base
):
    lists = [base / "one.json", base / "two.json"]
    for path in lists:
        path.write_bytes(written(f"{path.stem}.example.org"))
    scene.apply(Settings(tuple(map(str, lists))))
    before = scene.path.read_bytes()
    for path in lists:
        path.write_bytes(listing(*(f"{path.stem}-{at}.org" for at in range(800))))

    (told,) = scene.refresh()

    assert "policies of 1,600 domains take more than 268,435,456 bytes" in told
    assert scene.path.read_bytes() == before


def test_what_is_replaced_by_what_is_good_goes(scene, base, listed):
    (base / "other.json").write_bytes(written("other.example.org"))

    scene.apply(Settings((str(base / "other.json"),)))

    assert scene.told == []
    assert scene.answer("listed.example.org") == ""
    assert scene.answer("other.example.org") == LISTED


def test_a_keyring_without_a_list_is_not_kept_and_that_is_told(scene, base):
    scene.apply(Settings(keyring=str(base / "keyring.gpg")))

    (note,) = scene.notes
    assert f"so the keyring {base}/keyring.gpg is not kept" in note


def test_instances_do_not_share_what_their_sources_said(scene, base, listed):
    other = scene.path.parent.with_name("other") / scene.path.name

    one, two = (
        last_refresh.cache_directory(each, scene.bundles)
        for each in (scene.path, other)
    )

    assert one != two
    assert one.parent == two.parent
    names = sorted(path.suffix or path.name for path in one.iterdir())
    assert names == [".list", ".seen", "refreshed"]


# Taken out


def test_what_nobody_wants_any_more_leaves_main_cf_and_then_goes(scene, base):
    own = base / "own"
    own.touch()
    scene.postfix.set(smtp_tls_policy_maps=f"texthash:{own}")
    scene.third.say(ONE)
    scene.apply()

    scene.apply(Settings())

    value = Postfix(scene.postfix.config_dir).value("smtp_tls_policy_maps")
    assert value == f"texthash:{own}"
    assert not list(scene.postfix.config_dir.glob("*certbot_tls_policy*"))


# By certbot

NAME = "mx.example.org"


@pytest.fixture
def certbot(base: Path, third: ThirdParty, authority, scene: Sourced) -> Certbot:
    found = Certbot(base)
    found.environment["PYTHONPATH"] = str(third.directory)
    install_lineage(found.config_dir, NAME, authority.issue(NAME))
    return found


def install(certbot: Certbot, scene: Sourced, *options: str) -> str:
    scene.postfix.settle()
    done = certbot(
        "install",
        *("-i", "postfix", "--cert-name", NAME),
        *("--postfix-config-dir", str(scene.postfix.config_dir), *options),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    scene.postfix.settle()
    return done.stdout + done.stderr


def test_certbot_shows_and_writes_the_table_with_the_certificate(certbot, scene):
    scene.third.say(ONE)

    told = install(certbot, scene, "--postfix-mta-sts-domains", str(scene.domains))

    assert f"+one.example.org {FIRST}" in told
    assert f"+smtp_tls_policy_maps = texthash:{scene.path}" in told
    assert scene.answer("one.example.org") == FIRST


def test_a_rollback_takes_the_table_out_byte_for_byte(certbot, scene):
    before = snapshot(scene.postfix.config_dir)
    scene.third.say(ONE)
    install(certbot, scene, "--postfix-mta-sts-domains", str(scene.domains))

    done = certbot(
        "rollback",
        *("-i", "postfix", "--postfix-config-dir", str(scene.postfix.config_dir)),
    )

    assert done.returncode == 0, done.stderr
    after = snapshot(scene.postfix.config_dir)
    after.pop(".certbot.lock", None)
    assert after == before


def test_a_rollback_brings_back_the_table_and_its_database(certbot, scene):
    scene.third.say(ONE)
    install(certbot, scene, "--postfix-mta-sts-domains", str(scene.domains))
    scene.third.say(TWO)
    install(certbot, scene)
    assert scene.answer("one.example.org") == ""

    done = certbot(
        "rollback",
        *("-i", "postfix", "--postfix-config-dir", str(scene.postfix.config_dir)),
    )

    assert done.returncode == 0, done.stderr
    assert scene.answer("one.example.org") == FIRST


def test_it_is_told_that_a_table_is_gone_which_main_cf_names(certbot, scene):
    scene.third.say(ONE)
    install(certbot, scene, "--postfix-mta-sts-domains", str(scene.domains))
    scene.path.unlink()

    told = install(certbot, scene)

    assert f"{scene.path} is missing, and smtp_tls_policy_maps names it" in told

    install(certbot, scene, "--postfix-mta-sts-domains", str(scene.domains))

    assert scene.answer("one.example.org") == FIRST


def test_nobody_waits_while_a_refresh_waits_for_its_sources(certbot, scene, authority):
    scene.third.say(ONE)
    install(certbot, scene, "--postfix-mta-sts-domains", str(scene.domains))
    scene.third.be_slow()
    command = Path(certbot.executable).with_name("certbot-postfix")
    refresh = subprocess.Popen(
        [
            *(command, "--postfix-config-dir", scene.postfix.config_dir),
            *("--config-dir", certbot.config_dir, "policy", "refresh"),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=certbot.environment,
    )
    try:
        wait_until(scene.third.asked.exists, "the source is asked")
        issued = authority.issue(NAME)
        renew_lineage(certbot.config_dir, NAME, issued)

        install(certbot, scene)

        assert certbot.bundle(NAME).read_bytes() == issued.bundle_pem
        assert refresh.poll() is None
        scene.third.say(TWO)
    finally:
        scene.third.asked.unlink(missing_ok=True)
        _, told = refresh.communicate(timeout=60)

    assert (refresh.returncode, told) == (0, "")
    assert scene.answer("one.example.org") == ""


def test_no_renewal_of_another_lineage_waits_for_a_slow_source(
    certbot, scene, authority
):
    scene.third.say(ONE)
    install(certbot, scene, "--postfix-mta-sts-domains", str(scene.domains))
    params = {"postfix_config_dir": str(scene.postfix.config_dir)}
    later = "www.example.org"
    install_lineage(certbot.config_dir, later, authority.issue(later), **params)
    done = certbot(
        *("install", "-i", "postfix", "--cert-name", later),
        *("--postfix-config-dir", str(scene.postfix.config_dir)),
    )
    assert done.returncode == 0, done.stderr
    issued = authority.issue(later)
    renew_lineage(certbot.config_dir, later, issued)
    scene.third.be_slow()
    renew = subprocess.Popen(
        certbot.argv("renew"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=certbot.environment,
    )
    try:
        wait_until(scene.third.asked.exists, "the source is asked")

        assert certbot.bundle(later).read_bytes() == issued.bundle_pem
    finally:
        scene.third.asked.unlink(missing_ok=True)
        assert renew.wait(60) == 0


def test_policies_are_refreshed_though_the_last_lineage_cannot_be_renewed(
    certbot, scene, authority
):
    scene.third.say(ONE)
    install(certbot, scene, "--postfix-mta-sts-domains", str(scene.domains))
    params = {"postfix_config_dir": str(scene.postfix.config_dir)}
    issued = authority.issue("www.example.org")
    install_lineage(certbot.config_dir, "www.example.org", issued, **params)
    broken = certbot.config_dir / "renewal/zz.example.org.conf"
    broken.write_text("installer = postfix\n")
    scene.third.say(TWO)

    certbot("renew")

    assert scene.answer("one.example.org") == FIRST  # the last one may do it yet

    (refreshed,) = scene.bundles.glob("policies/*/refreshed")
    a_day_ago = time.time() - 86401
    os.utime(refreshed, (a_day_ago, a_day_ago))
    certbot("renew")

    assert scene.answer("one.example.org") == ""


def test_a_broken_source_stops_no_certificate(certbot, scene):
    scene.third.break_("raise RuntimeError('no such thing')")

    told = install(certbot, scene, "--postfix-mta-sts-domains", str(scene.domains))

    assert "the source of policies third (third_party_policies:sources)" in told
    bundle = certbot.bundle(NAME)
    assert str(bundle) in scene.postfix.main_cf.read_text()


@pytest.mark.parametrize(
    "line", ["import sys; sys.exit(0)", "sources = lambda context: sources(context)"]
)
def test_a_source_that_ends_the_process_or_has_no_end_stops_no_certificate(
    certbot, scene, line
):
    scene.third.break_(line)

    told = install(certbot, scene, "--postfix-mta-sts-domains", str(scene.domains))

    assert "the source of policies third (third_party_policies:sources)" in told
    assert str(certbot.bundle(NAME)) in scene.postfix.main_cf.read_text()
