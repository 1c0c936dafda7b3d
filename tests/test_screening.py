"""Behind postscreen, a client that it does not know is presented what others are."""

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from certbot_postfix.errors import Error, ProofError
from certbot_postfix.inbound import main_cf
from certbot_postfix.inbound.main_cf import Target
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.postfix import screening
from certbot_postfix.postfix.configuration import CHAIN, Configuration, Service
from certbot_postfix.postfix.decisions import Change, CommentOut
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status import report
from certbot_postfix.status.collect import collect_facts
from certbot_postfix.system.deadline import Deadline
from tests.lab import Authority, Certbot, Issued, PrivatePostfix, install_lineage
from tests.lab.machine import LabError
from tests.lab.postfix import STRANGER
from tests.lab.scene import LEAST, NAME, Checkpoint, Scene
from tests.test_deployment import bundle

NEW = "/etc/letsencrypt/postfix/mx.example.org.pem"
SERVED = Target({Path(NEW): "ECDSA"})

DEFAULTS = {
    "mail_version": "3.7.11",
    CHAIN: "",
    "smtpd_tls_cert_file": "",
    "smtpd_tls_key_file": "$smtpd_tls_cert_file",
    "smtpd_tls_security_level": "may",
    "postscreen_tls_security_level": "may",
    "tlsproxy_tls_chain_files": f"${CHAIN}",
    "tlsproxy_tls_cert_file": "$smtpd_tls_cert_file",
    "tlsproxy_tls_protocols": "$smtpd_tls_protocols",
    "tlsproxy_tls_loglevel": "$smtpd_tls_loglevel",
    "smtpd_tls_protocols": ">=TLSv1",
    "smtpd_tls_mandatory_protocols": ">=TLSv1",
    "smtpd_tls_loglevel": "0",
    "inet_interfaces": "all",
    "inet_protocols": "all",
}
NEWER = {
    "mail_version": "3.12",
    "postscreen_tls_chain_files": f"${CHAIN}",
    "postscreen_tls_cert_file": "$smtpd_tls_cert_file",
    "postscreen_tls_protocols": "$smtpd_tls_protocols",
    "postscreen_tls_loglevel": "$smtpd_tls_loglevel",
    "postscreen_tls_ciphers": "$smtpd_tls_ciphers",
    "tlsproxy_tls_ciphers": "$smtpd_tls_ciphers",
}
OLDER = {"mail_version": "3.3.22"}


def configured(
    explicit: dict[str, str],
    release: dict[str, str] = OLDER,
    *,
    screen: dict[str, str] | None = None,
    proxy: dict[str, str] | None = None,
) -> Configuration:
    defaults = {**DEFAULTS, **release}
    if release is OLDER:
        defaults = {name: defaults[name] for name in defaults if "chain" not in name}
    values: dict[str, str] = {}
    for name, text in {**defaults, **explicit}.items():
        found = explicit.get(name, text)
        values[name] = explicit.get(found[1:], defaults.get(found[1:], ""))
        if not found.startswith("$"):
            values[name] = found
    services = (
        Service("smtp", "inet", "postscreen", screen or {}),
        Service("tlsproxy", "unix", "tlsproxy", proxy or {}),
    )
    return Configuration(Path("/etc/postfix"), defaults, explicit, values, services)


OLD, OTHER = "/etc/ssl/old.pem", "/etc/ssl/other.pem"
PAIR = {"smtpd_tls_cert_file": OLD, "smtpd_tls_key_file": OLD}
IN_CHAIN = {CHAIN: OLD}
PRESENT: dict[str, str] = {}


def with_proxy_of_its_own(
    configuration: Configuration, overrides: dict[str, str] | None = None
) -> Configuration:
    screen = Service(
        "smtp", "inet", "postscreen", {"tlsproxy_service_name": "screened"}
    )
    others = configuration.services[1:]
    own = Service("screened", "unix", "tlsproxy", overrides or {})
    return replace(configuration, services=(screen, *others, own))


def decided(
    configuration: Configuration,
    wanted: Target = SERVED,
    profile: Profile = Profile.CERTIFICATE,
) -> dict[str, str | None]:
    """Return what becomes of the parameters, None of one that is commented out."""
    decisions = main_cf.decide(configuration, wanted, profile, ClientLevel.KEEP)
    return {
        each.name: each.new if isinstance(each, Change) else None
        for each in decisions
        if isinstance(each, Change | CommentOut)
    }


@pytest.mark.parametrize(
    ("configuration", "retired"),
    [
        pytest.param(
            configured({**PAIR, "tlsproxy_tls_cert_file": OLD}),
            "tlsproxy_tls_cert_file",
            id="by the older parameters",
        ),
        pytest.param(
            configured({**IN_CHAIN, "tlsproxy_tls_chain_files": OLD}, PRESENT),
            "tlsproxy_tls_chain_files",
            id="by chain files",
        ),
        pytest.param(
            configured({**IN_CHAIN, "postscreen_tls_chain_files": OLD}, NEWER),
            "postscreen_tls_chain_files",
            id="by chain files of postscreen",
        ),
    ],
)
def test_what_names_the_same_certificate_for_postscreen_goes_with_it(
    configuration, retired
):
    assert decided(configuration)[retired] is None


@pytest.mark.parametrize(
    "configuration",
    [
        pytest.param(configured(PAIR), id="nothing is set"),
        pytest.param(
            configured({**PAIR, "tlsproxy_tls_cert_file": "$smtpd_tls_cert_file"}),
            id="the default is set",
        ),
        pytest.param(
            configured({**PAIR, "tlsproxy_tls_cert_file": OTHER}, PRESENT),
            id="the default for chain files hides it",
        ),
        pytest.param(
            configured({**PAIR, "postscreen_tls_chain_files": OTHER}, PRESENT),
            id="a parameter that is not known",
        ),
        pytest.param(
            configured({**IN_CHAIN, "tlsproxy_tls_loglevel": "2"}, PRESENT),
            id="other parameters before 3.12",
        ),
        pytest.param(
            configured({**IN_CHAIN, "postscreen_tls_ciphers": "high"}, NEWER),
            id="parameters that the keys are not read with",
        ),
        pytest.param(
            configured({**IN_CHAIN, "postscreen_tls_security_level": "encrypt"}, NEWER),
            id="another level with the same protocols",
        ),
        pytest.param(
            configured({**IN_CHAIN, "postscreen_tls_security_level": "none"}, PRESENT),
            id="no TLS of postscreen's own",
        ),
        pytest.param(
            with_proxy_of_its_own(configured(IN_CHAIN, NEWER, proxy={CHAIN: OTHER})),
            id="a tlsproxy that works for others",
        ),
    ],
)
def test_what_follows_smtpd_stays_as_it_is(configuration):
    assert not [each for each in decided(configuration) if not each.startswith("smtpd")]


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        pytest.param(
            configured({**PAIR, "tlsproxy_tls_cert_file": OTHER}),
            "tlsproxy_tls_cert_file in main.cf",
            id="by the older parameters",
        ),
        pytest.param(
            configured({**PAIR, "tlsproxy_tls_chain_files": OTHER}, PRESENT),
            "tlsproxy_tls_chain_files in main.cf",
            id="by chain files",
        ),
        pytest.param(
            configured(IN_CHAIN, PRESENT, proxy={CHAIN: OTHER}),
            f"{CHAIN} in tlsproxy/unix of master.cf",
            id="by an override",
        ),
        pytest.param(
            configured(IN_CHAIN, PRESENT, proxy={"tlsproxy_tls_chain_files": OLD}),
            "tlsproxy_tls_chain_files in tlsproxy/unix of master.cf",
            id="by an override with the same certificate",
        ),
        pytest.param(
            configured(IN_CHAIN, NEWER, screen={CHAIN: OTHER}),
            f"{CHAIN} in smtp/inet of master.cf",
            id="by an override of postscreen",
        ),
        pytest.param(
            configured({**IN_CHAIN, "tlsproxy_tls_protocols": ">=TLSv1.2"}, NEWER),
            "tlsproxy_tls_protocols in main.cf",
            id="by another setting of tlsproxy",
        ),
        pytest.param(
            configured({**IN_CHAIN, "tlsproxy_tls_loglevel": "2"}, NEWER),
            "tlsproxy_tls_loglevel in main.cf",
            id="by what is no matter of TLS",
        ),
        pytest.param(
            configured(IN_CHAIN, NEWER, screen={"smtpd_tls_loglevel": "2"}),
            "smtpd_tls_loglevel in smtp/inet of master.cf",
            id="by an override of such",
        ),
        pytest.param(
            configured(
                {
                    **IN_CHAIN,
                    "postscreen_tls_security_level": "encrypt",
                    "smtpd_tls_mandatory_protocols": ">=TLSv1.2",
                },
                NEWER,
            ),
            "postscreen_tls_security_level in main.cf",
            id="by a level with other protocols",
        ),
        pytest.param(
            configured({**PAIR, "tlsproxy_tls_key_file": OTHER}),
            "tlsproxy_tls_key_file in main.cf",
            id="by the key alone",
        ),
        pytest.param(
            configured(
                {
                    **IN_CHAIN,
                    "postscreen_tls_security_level": "",
                    "postscreen_enforce_tls": "yes",
                    "smtpd_tls_mandatory_protocols": ">=TLSv1.2",
                },
                NEWER,
            ),
            "postscreen_tls_security_level in main.cf, postscreen_enforce_tls in"
            " main.cf",
            id="by the older parameter for the level",
        ),
        pytest.param(
            with_proxy_of_its_own(configured(IN_CHAIN, PRESENT), {CHAIN: OTHER}),
            f"{CHAIN} in screened/unix of master.cf",
            id="by a tlsproxy of postscreen's own",
        ),
    ],
)
def test_another_certificate_for_clients_of_postscreen_is_refused(configuration, told):
    with pytest.raises(Error) as caught:
        decided(configuration)

    assert caught.value.message.startswith(f"{told}: clients to which postscreen")


def test_what_a_profile_raises_is_raised_for_tlsproxy_too():
    """Postfix 3.12 offers no TLS to clients of postscreen if the two differ."""
    same = {**IN_CHAIN, "tlsproxy_tls_loglevel": "0", "tlsproxy_tls_chain_files": OLD}

    after = decided(configured(same, NEWER), profile=Profile.INTERMEDIATE)

    assert after["smtpd_tls_loglevel"] == "1"
    assert after["tlsproxy_tls_loglevel"] is None


def test_what_differs_already_hinders_no_certificate_that_is_served_by_name():
    by_name = Target({}, Path("/etc/postfix/certbot_sni"), "texthash")
    configuration = configured({**IN_CHAIN, "tlsproxy_tls_chain_files": OTHER}, PRESENT)

    assert list(decided(configuration, by_name)) == ["tls_server_sni_maps"]


@pytest.mark.parametrize(
    ("networks", "source"),
    [
        ("127.0.0.1/32 [::1]/128", "127.25.25.25"),
        ("127.25.0.0/16, hash:/etc/postfix/networks", "127.0.25.25"),
        ("127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128", None),
    ],
)
def test_a_stranger_comes_from_outside_of_mynetworks(networks, source):
    configuration = configured({**PAIR, "mynetworks": networks})

    found = screening.strangers(configuration)

    assert [each.source for each in found] == ([source] if source else [])


# With a real postscreen


@pytest.fixture
def postfix(base: Path) -> Iterator[PrivatePostfix]:
    with contextlib.closing(PrivatePostfix(base, postscreen=True)) as found:
        yield found


@pytest.fixture
def scene(postfix: PrivatePostfix, base: Path, authority: Authority) -> Scene:
    return Scene(postfix, Certbot(base), authority)


@pytest.fixture
def issued(scene: Scene, authority: Authority) -> Issued:
    found = authority.issue(NAME)
    install_lineage(scene.certbot.config_dir, NAME, found)
    return found


@pytest.mark.postfix
def test_a_stranger_is_presented_what_tlsproxy_named_by_hand_before(
    scene, base, issued, authority
):
    old = bundle(base / "old.pem", authority.issue(NAME))
    postfix = scene.postfix
    postfix.set(smtpd_tls_chain_files=str(old), tlsproxy_tls_chain_files=str(old))
    postfix.start()

    scene.deploy(wish=LEAST)

    assert postfix.served(client=STRANGER) == issued.leaf
    assert " from 127.25.25.25" in scene.said[-1]
    postfix.await_log("CONNECT from [127.25.25.25]")


@pytest.mark.postfix
def test_a_certificate_of_tlsproxy_ends_an_installation_and_is_a_finding(
    scene, base, issued, authority
):
    other = bundle(base / "other.pem", authority.issue(NAME))
    scene.postfix.set(tlsproxy_tls_chain_files=str(other))
    scene.postfix.start()
    before = scene.postfix.snapshot()

    with pytest.raises(Error, match=r"^tlsproxy_tls_chain_files in main\.cf: "):
        scene.deploy(wish=LEAST)

    assert scene.postfix.snapshot() == before
    directory = Postfix(scene.postfix.config_dir)
    facts = collect_facts(directory, scene.certbot.bundle(NAME).parent, Deadline(20))
    codes = [each.code.value for each in report.make(facts).findings]
    assert "postscreen-differs" in codes
    assert "stale" not in codes


def served_by_tls(postfix: PrivatePostfix) -> bool:
    """Whether strangers get TLS, whatever the certificate."""
    try:
        postfix.served(client=STRANGER)
    except (LabError, ssl.SSLError):
        return False
    return True


@pytest.mark.postfix
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"tlsproxy_tls_security_level": "none"}, id="off"),
        # from 3.12 on
        pytest.param({"tlsproxy_tls_loglevel": "2"}, id="another loglevel"),
    ],
)
def test_an_installation_is_refused_where_a_stranger_gets_no_tls(
    scene, issued, settings
):
    postfix, (name,) = scene.postfix, settings
    postfix.set(**settings)
    postfix.start()
    if served_by_tls(postfix):
        scene.deploy(wish=LEAST)
        assert postfix.served(client=STRANGER) == issued.leaf
        return

    with pytest.raises(Error, match=rf"^{name} in main\.cf: "):
        scene.deploy(wish=LEAST)

    directory = Postfix(postfix.config_dir)
    facts = collect_facts(directory, scene.certbot.bundle(NAME).parent, Deadline(20))
    codes = [each.code.value for each in report.make(facts).findings]
    assert "postscreen-differs" in codes


@pytest.mark.postfix
def test_a_certificate_of_the_smtpd_behind_postscreen_is_its_own(
    scene, base, issued, authority
):
    postfix, own = scene.postfix, authority.issue(NAME)
    other = bundle(base / "other.pem", own)
    postfix.postconf("-P", f"smtpd/pass/{CHAIN}={other}")
    postfix.settle()
    postfix.start()

    scene.deploy(wish=LEAST)

    assert postfix.served() == own.leaf
    assert postfix.served("submission") == issued.leaf
    directory = Postfix(postfix.config_dir)
    facts = collect_facts(directory, scene.certbot.bundle(NAME).parent, Deadline(20))
    assert "stale" not in [each.code.value for each in report.make(facts).findings]


@pytest.mark.postfix
def test_what_a_stranger_is_presented_is_verified(scene, base, issued, authority):
    other = bundle(base / "other.pem", authority.issue(NAME))
    disturbed = base / "disturbed-postfix"
    disturbed.write_text(
        "#!/bin/sh\n"
        f'[ "$3" = reload ] && postconf -c "$2" -e tlsproxy_tls_chain_files={other}\n'
        'exec postfix "$@"\n'
    )
    disturbed.chmod(0o755)
    scene.postfix.start()
    deployment = scene.deployment
    deployment.postfix.postfix = str(disturbed)
    deployment.serving.timeout = 6
    proposal = deployment.installation.propose(scene.live(), LEAST)
    deployment.installation.apply(proposal, Checkpoint())

    with pytest.raises(ProofError, match=r"from 127\.25\.25\.25"):
        deployment.installation.serve(proposal)


@pytest.mark.postfix
def test_a_stranger_whom_postscreen_rejects_hinders_nothing(scene, issued):
    scene.postfix.set(
        postscreen_access_list="permit_mynetworks, cidr:{{127.25.0.0/16 reject}}",
        postscreen_denylist_action="drop",
    )
    scene.postfix.start()

    scene.deploy(wish=LEAST)
    scene.deploy(wish=LEAST)

    assert scene.postfix.served() == issued.leaf
    assert "127.25.25.25" not in scene.said[-2]
    assert scene.said[-1].startswith("Postfix serves")
