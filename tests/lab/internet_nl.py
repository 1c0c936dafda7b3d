"""What Internet.nl's mail test makes of a server's TLS: testssl.sh looks, this judges.

The rules are those of Internet.nl 1.11, checks/tasks/tls/tls_constants.py, which follow
NCSC-NL's "IT Security Guidelines for Transport Layer Security" of May 2025.  What is to
be phased out has full points, with a warning; what is insufficient has none.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.lab.clients import negotiate
from tests.lab.postfix import PrivatePostfix

PROGRAM = shutil.which("testssl")

# By IANA's names.  All others are insufficient.
_SUFFICIENT = {
    *("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"),
    *("TLS_AES_128_GCM_SHA256", "TLS_AES_128_CCM_SHA256"),
    *(
        f"TLS_ECDHE_{auth}_WITH_{cipher}"
        for auth in ("ECDSA", "RSA")
        for cipher in (
            *("CHACHA20_POLY1305_SHA256", "AES_256_GCM_SHA384", "AES_256_CCM"),
            *("AES_128_GCM_SHA256", "AES_128_CCM"),
        )
    ),
}
_PHASE_OUT = re.compile(
    r"TLS_ECDHE_(ECDSA|RSA)_WITH_(CAMELLIA|ARIA)_(128|256)_(GCM|CBC)_SHA(256|384)"
    r"|TLS_ECDHE_(ECDSA|RSA)_WITH_AES_(128|256)_CBC_SHA(256|384)"
    r"|TLS_DHE_RSA_WITH_((CAMELLIA|ARIA|AES)_(128|256)_(GCM|CBC)_SHA(256|384)"
    r"|AES_(128|256)_CCM|CHACHA20_POLY1305_SHA256)"
)
_OLD = {"SSLv2": "SSL 2", "SSLv3": "SSL 3", "TLS1": "TLS 1.0", "TLS1_1": "TLS 1.1"}
_CURVES = {
    *("prime256v1", "secp384r1", "secp521r1", "X25519", "X448"),
    *("brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1"),
}
_CURVES_PHASE_OUT = {"secp224r1"}
_RSA_SUFFICIENT, _RSA_PHASE_OUT = 3072, 2048


class Judgement(NamedTuple):
    """The points that are *insufficient*, and those to be *phased out*."""

    insufficient: frozenset[str]
    phase_out: frozenset[str]


# At what testssl.sh looks: that takes about a minute.
_PARTS = (
    *("--protocols", "--fs", "--cipher-per-proto"),
    *("--server-defaults", "--renegotiation"),
)


def look(postfix: PrivatePostfix, directory: Path) -> list[dict[str, str]]:
    """Return what testssl.sh finds of the service smtp."""
    assert PROGRAM
    report = directory / "testssl.json"
    report.unlink(missing_ok=True)
    command = [PROGRAM, "--quiet", "--color", "0", "--warnings", "batch"]
    command += [*_PARTS, "--jsonfile", str(report), "--starttls", "smtp"]
    done = subprocess.run(
        [*command, f"127.0.0.1:{postfix.ports['smtp']}"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found: list[dict[str, str]] = json.loads(report.read_text())
    ids = {each["id"] for each in found}
    expected = {*_OLD, "TLS1_2", "secure_renego"}
    assert expected <= ids, done.stdout + done.stderr
    marks = ["ECDHE_curves", "cipher-tls1_2"]
    assert all(mark in "".join(ids) for mark in marks), done.stdout
    return found


def judge(findings: list[dict[str, str]]) -> Judgement:
    """Return what Internet.nl would say of what testssl.sh has found."""
    insufficient, phase_out = set[str](), set[str]()
    for found in findings:
        for names, rule in _RULES:
            if names.match(found["id"]):
                grade, points = rule(found)
                (insufficient if grade is BAD else phase_out).update(points)
    return Judgement(frozenset(insufficient), frozenset(phase_out))


BAD, WARNING = "insufficient", "to be phased out"
Finding = dict[str, str]
Graded = tuple[str, set[str]]


def _protocol(found: Finding) -> Graded:
    offered = found["finding"].startswith("offered")
    return BAD, {_OLD[found["id"]]} if offered else set()


def _cipher(found: Finding) -> Graded:
    name = found["finding"].split()[-1]
    grade = WARNING if _PHASE_OUT.fullmatch(name) else BAD
    return grade, {name} - _SUFFICIENT


def _bad_curves(found: Finding) -> Graded:
    return BAD, set(found["finding"].split()) - _CURVES - _CURVES_PHASE_OUT


def _old_curves(found: Finding) -> Graded:
    return WARNING, set(found["finding"].split()) & _CURVES_PHASE_OUT


def _group(found: Finding) -> Graded:
    good = re.match(r"RFC ?7919|ffdhe(3072|4096|6144|8192)", found["finding"])
    return WARNING if good else BAD, {f"DH group {found['finding']}"}


def _key(found: Finding) -> Graded:
    kind, bits, *_ = found["finding"].split()
    grade = BAD if int(bits) < _RSA_PHASE_OUT else WARNING
    short = kind == "RSA" and int(bits) < _RSA_SUFFICIENT
    return grade, {f"RSA key of {bits} bits"} if short else set()


def _signed(found: Finding) -> Graded:
    weak = re.search(r"SHA-?1\b|MD5", found["finding"])
    return BAD, {f"certificate with {found['finding']}"} if weak else set()


def _renegotiation(found: Finding) -> Graded:
    well = found["severity"] == "OK"
    return BAD, set() if well else {f"{found['id']}: {found['finding']}"}


# By the names of what testssl.sh, 3.0 or 3.2, finds.
_RULES = (
    (re.compile(rf"({'|'.join(_OLD)})$"), _protocol),
    (re.compile("cipher-"), _cipher),
    (re.compile("P?FS_ECDHE_curves$"), _bad_curves),
    (re.compile("P?FS_ECDHE_curves$"), _old_curves),
    (re.compile("DH_groups$"), _group),
    (re.compile("cert_keySize"), _key),
    (re.compile("cert_signatureAlgorithm"), _signed),
    (re.compile("secure_(client_)?renego$"), _renegotiation),
)


def signatures(postfix: PrivatePostfix) -> Judgement:
    """Return what it would say of signatures, which testssl.sh 3.0 does not test."""
    accepted = {
        digest: any(
            negotiate(
                *(postfix, "smtp", "-tls1_2", "-cipher", "ALL:@SECLEVEL=0"),
                *("-sigalgs", f"{kind}+{digest}"),
            )
            for kind in ("ECDSA", "RSA")
        )
        for digest in ("SHA1", "SHA224")
    }
    return Judgement(
        frozenset({"signatures with SHA-1"} if accepted["SHA1"] else ()),
        frozenset({"signatures with SHA-224"} if accepted["SHA224"] else ()),
    )


def judged(postfix: PrivatePostfix, directory: Path) -> Judgement:
    """Return what Internet.nl would say of the service smtp."""
    whole, more = judge(look(postfix, directory)), signatures(postfix)
    return Judgement(
        whole.insufficient | more.insufficient, whole.phase_out | more.phase_out
    )
