"""testssl.sh looks at each profile, by the rules of Internet.nl's mail test."""

import pytest

from certbot_postfix.inbound.proposal import DeployOptions
from certbot_postfix.options import Profile
from tests.lab import internet_nl
from tests.lab.internet_nl import Judgement, judge, judged
from tests.lab.scene import NAME, Scene


def chain(scene: Scene, kinds: tuple[str, ...], profile: Profile) -> None:
    """Have certificates served with keys of these *kinds*, as *profile* has it."""
    scene.postfix.start()
    for kind in kinds:
        scene.lineage(kind, NAME, kind=kind)
        scene.deploy(kind, DeployOptions(profile))


@pytest.mark.soak
@pytest.mark.postfix
@pytest.mark.skipif(not internet_nl.PROGRAM, reason="testssl.sh is not installed")
@pytest.mark.parametrize(
    "kinds", [("ecdsa", "rsa3072"), ("rsa3072",), ("ecdsa",)], ids=" and ".join
)
def test_internet_nl_finds_no_fault_with_the_profile_of_that_name(scene, base, kinds):
    chain(scene, kinds, Profile.INTERNET_NL)

    assert judged(scene.postfix, base) == Judgement(frozenset(), frozenset())


@pytest.mark.postfix
@pytest.mark.soak
@pytest.mark.skipif(not internet_nl.PROGRAM, reason="testssl.sh is not installed")
@pytest.mark.parametrize(
    ("profile", "faults"),
    [
        (Profile.OPPORTUNISTIC, {"TLS 1.1", "signatures with SHA-1"}),
        (Profile.INTERMEDIATE, {"signatures with SHA-1"}),
    ],
)
def test_internet_nl_finds_fault_with_the_others(scene, base, profile, faults):
    chain(scene, ("ecdsa", "rsa3072"), profile)

    assert judged(scene.postfix, base).insufficient >= faults


@pytest.mark.parametrize(
    ("name", "text", "insufficient", "phase_out"),
    [
        ("TLS1_1", "offered (deprecated)", {"TLS 1.1"}, set()),
        ("TLS1_1", "not offered", set(), set()),
        ("TLS1_2", "offered", set(), set()),
        ("cipher-tls1_2_xc030", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", set(), set()),
        (
            "cipher-tls1_2_xc028",
            "x TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384",
            set(),
            {"TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384"},
        ),
        (
            "cipher-tls1_2_x9d",
            "x TLS_RSA_WITH_AES_256_GCM_SHA384",
            {"TLS_RSA_WITH_AES_256_GCM_SHA384"},
            set(),
        ),
        ("FS_ECDHE_curves", "X25519 secp256k1", {"secp256k1"}, set()),
        ("PFS_ECDHE_curves", "prime256v1 secp224r1", set(), {"secp224r1"}),
        ("DH_groups", "ffdhe3072", set(), {"DH group ffdhe3072"}),
        ("DH_groups", "RFC3526/Oakley", {"DH group RFC3526/Oakley"}, set()),
        ("cert_keySize <cert#1>", "RSA 3072 bits", set(), set()),
        ("cert_keySize", "RSA 2048 bits", set(), {"RSA key of 2048 bits"}),
        ("cert_keySize", "EC 256 bits", set(), set()),
        ("secure_renego", "not there", {"secure_renego: not there"}, set()),
    ],
)
def test_findings_are_judged_by_the_rules(name, text, insufficient, phase_out):
    findings = [{"id": name, "finding": text, "severity": "HIGH"}]

    assert judge(findings) == Judgement(frozenset(insufficient), frozenset(phase_out))
