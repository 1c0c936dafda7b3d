"""What Internet.nl would say of each profile: ``make internet-nl``.

Prints the table of docs/profiles.rst, made by testssl.sh and openssl(1) with a private
Postfix; ``python -m tests.internet_nl internet-nl`` does so for that profile.
"""

import contextlib
import itertools
import re
import subprocess
import sys
from collections.abc import Collection, Iterator

from certbot_postfix.inbound.proposal import DeployOptions
from certbot_postfix.options import Profile
from tests.lab import Authority, Certbot, PrivatePostfix, base_directory
from tests.lab.internet_nl import PROGRAM, judged
from tests.lab.scene import NAME, Scene

PROFILES = (Profile.OPPORTUNISTIC, Profile.INTERMEDIATE, Profile.INTERNET_NL)
CHAINS = {
    "RSA 3072": ("rsa3072",),
    "ECDSA": ("ecdsa",),
    "both": ("ecdsa", "rsa3072"),
}


def main(chosen: Collection[str]) -> int:
    """Print the table, a row for each profile that is *chosen* and each chain."""
    if not PROGRAM:
        print("testssl.sh is not installed", file=sys.stderr)
        return 1
    authority = Authority()
    print(_HEAD)
    for profile, (title, kinds) in itertools.product(PROFILES, CHAINS.items()):
        if chosen and profile.value not in chosen:
            continue
        with served(authority, profile, kinds) as postfix:
            found = judged(postfix, postfix.base)
        print(f"   * - ``{profile.value}``\n     - {title}")
        for points in found:
            print(f"     - {'; '.join(_summary(points)) or 'none'}", flush=True)
    testssl = re.compile(r"testssl\S* +(?:version +)?([\d.]+)")
    program = _version("testssl.sh", [PROGRAM, "--version"], testssl)
    print(f"\nWith {', '.join([*versions(), program])}.")
    return 0


_HEAD = """\
.. list-table::
   :header-rows: 1
   :widths: 14 10 44 32

   * - profile
     - keys
     - insufficient: no points
     - to be phased out: points, and a warning"""


@contextlib.contextmanager
def served(
    authority: Authority, profile: Profile, kinds: tuple[str, ...]
) -> Iterator[PrivatePostfix]:
    """Yield a Postfix that has been given certificates with these *kinds* of key."""
    with base_directory() as base, PrivatePostfix(base) as postfix:
        postfix.set(smtpd_tls_loglevel="1")
        scene = Scene(postfix, Certbot(base), authority)
        for kind in kinds:
            scene.lineage(kind, NAME, kind=kind)
            scene.deploy(kind, DeployOptions(profile))
        yield postfix


def _summary(points: Collection[str]) -> Iterator[str]:
    """Yield *points* in the order of the alphabet, ciphers by their number."""
    ciphers = [each for each in points if re.match("TLS_", each)]
    yield from sorted(set(points) - set(ciphers))
    if ciphers:
        yield f"{len(ciphers)} ciphers"


def versions() -> Iterator[str]:
    """Yield the versions of Postfix and OpenSSL."""
    yield _version("Postfix", ["postconf", "-dh", "mail_version"], re.compile(r"(\S+)"))
    yield _version("", ["openssl", "version"], re.compile(r"(OpenSSL \S+)"))


def _version(name: str, command: list[str], pattern: re.Pattern[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = pattern.search(re.sub(r"\x1b\[[\d;]*m", "", done.stdout))
    return f"{name} {found[1] if found else '?'}".strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
