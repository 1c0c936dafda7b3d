"""What Postfix serves, and cryptography refuses, is told, and replaced."""

import json
import subprocess
from pathlib import Path

import pytest

from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status import monitoring, report, terminal
from certbot_postfix.status.collect import collect_facts
from certbot_postfix.status.findings import Code
from certbot_postfix.system.deadline import Deadline
from tests.lab import Certbot, Pebble, PrivatePostfix, install_lineage, pki

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"


def explicit(path: Path) -> None:
    """Write a certificate whose key has its curve as numbers, RFC 5480, 2.1.1."""
    key, certificate = path.with_suffix(".key"), path.with_suffix(".crt")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-subj", f"/CN={NAME}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"),
            *("-pkeyopt", "ec_param_enc:explicit"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    path.touch(mode=0o600)
    path.write_bytes(key.read_bytes() + certificate.read_bytes())


def write(directory: Path, kind: str) -> Path:
    """Write key and certificate of that *kind*, and return where."""
    path = directory / f"{kind.replace(' ', '-')}.pem"
    if kind == "explicit curve":
        explicit(path)
        return path
    issued = pki.edited(pki.self_signed(NAME), **pki.ODD[kind])
    path.touch(mode=0o600)
    path.write_bytes(issued.bundle_pem)
    return path


KINDS = [*pki.loaded(), "explicit curve"]


def test_every_odd_certificate_is_one_finding_of_status(stopped_postfix):
    postfix = stopped_postfix
    directory = postfix.config_dir
    names = {
        f"odd{at}.example.org": write(directory, kind) for at, kind in enumerate(KINDS)
    }
    table = directory / "certbot_sni"
    table.touch(mode=0o600)
    table.write_text("".join(f"{name} {path}\n" for name, path in names.items()))
    postfix.set(tls_server_sni_maps=f"texthash:{table}")
    postfix.start()

    facts = collect_facts(Postfix(directory), directory.parent / "none", Deadline(60))
    found = report.make(facts)

    served = {str(row.files[0]) for row in found.handshakes if row.leaf and row.files}
    assert served >= set(map(str, names.values()))
    faulty = {str(used.files[0]) for used in found.certificates if used.leaf.fault}
    assert faulty >= {
        str(names[f"odd{KINDS.index(kind)}.example.org"])
        for kind in ("version 4", "x400Address", "CN as BIT STRING")
    }
    told = [each for each in found.findings if each.object in faulty]
    once = {each.object for each in told if each.code is Code.UNREADABLE}
    others = {each.code for each in told} - {Code.UNREADABLE, Code.EXPIRED}
    assert (once, others) == (faulty, set())
    assert terminal.as_table(found).count(Code.UNREADABLE.value) == len(faulty)
    dates = [
        each["not_after"]
        for each in json.loads(monitoring.as_json(found))["certificates"]
    ]
    assert None in dates
    assert "1970" not in str(dates)
    assert "nan" not in monitoring.as_prometheus(found)


@pytest.mark.parametrize(
    "kind", ["version 4", "x400Address", "CN as BIT STRING", "explicit curve", "year 0"]
)
def test_an_odd_certificate_is_replaced_by_an_installation(
    base, stopped_postfix, authority, kind
):
    postfix, certbot = stopped_postfix, Certbot(base)
    postfix.set(smtpd_tls_chain_files=str(write(postfix.config_dir, kind)))
    postfix.start()
    issued = authority.issue(NAME)
    install_lineage(certbot.config_dir, NAME, issued)

    done = certbot("install", "--cert-name", NAME, *options(postfix))

    assert done.returncode == 0, done.stderr
    assert postfix.served("smtp") == issued.leaf


def options(postfix: PrivatePostfix) -> list[str]:
    return ["-i", "postfix", "--postfix-config-dir", str(postfix.config_dir)]


def test_no_warning_of_a_library_is_seen_or_does_any_harm(
    base, stopped_postfix, executable, pebble: Pebble
):
    postfix = stopped_postfix
    certbot = Certbot(base, executable=executable, pebble=pebble)
    certbot.environment["PYTHONWARNINGS"] = ERRORS
    odd = write(postfix.config_dir, "serial number -5")
    postfix.set(smtpd_tls_chain_files=str(odd), smtp_tls_CAfile=str(odd))
    postfix.start()

    outcomes = [
        status(certbot, postfix),
        certbot("run", "-a", "standalone", "-d", NAME, *options(postfix)),
        certbot("renew", "--force-renewal"),
        status(certbot, postfix),
    ]

    said = "".join(each.stdout + each.stderr for each in outcomes)
    assert [each.returncode for each in outcomes] == [3, 0, 0, 0], said
    assert "Warning" not in said, said
    assert "warning:" not in said, said
    assert "serial number" not in said


# Nothing may warn, but certbot and what it imports itself.
ERRORS = "error"


def status(
    certbot: Certbot, postfix: PrivatePostfix
) -> "subprocess.CompletedProcess[str]":
    python = certbot.executable.with_name("python3")
    where = ["--postfix-config-dir", str(postfix.config_dir)]
    where += ["--config-dir", str(certbot.config_dir)]
    return subprocess.run(
        [str(python), "-m", "certbot_postfix.cli", *where, "status"],
        check=False,
        capture_output=True,
        text=True,
        env={**certbot.environment, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
