"""What Internet.nl would say of each profile: ``make internet-nl``.

Prints the table of docs/profiles.rst, made by testssl.sh and openssl(1) with a private
Postfix; ``python -m tests.internet_nl internet-nl`` does so for that profile.
"""

import itertools
import re
import subprocess
import sys
from collections.abc import Collection, Iterator

from certbot_postfix.inbound.proposal import DeployOptions
from certbot_postfix.options import Profile
from tests.lab import Authority, Certbot, PrivatePostfix, base_directory
from tests.lab.internet_nl import PROGRAM, Judgement, judged
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
        found = _judged(authority, profile, kinds)
        print(f"   * - ``{profile.value}``\n     - {title}")
        for points in found:
            print(f"     - {'; '.join(_summary(points)) or 'none'}", flush=True)
    print(f"\nWith {', '.join(_versions())}.")
    return 0


_HEAD = """\
.. list-table::
   :header-rows: 1
   :widths: 14 10 44 32

   * - profile
     - keys
     - insufficient: no points
     - to be phased out: points, and a warning"""


def _judged(
    authority: Authority, profile: Profile, kinds: tuple[str, ...]
) -> Judgement:
    with base_directory() as base, PrivatePostfix(base) as postfix:
        scene = Scene(postfix, Certbot(base), authority)
        for kind in kinds:
            scene.lineage(kind, NAME, kind=kind)
            scene.deploy(kind, DeployOptions(profile))
        return judged(postfix, base)


def _summary(points: Collection[str]) -> Iterator[str]:
    """Yield *points* in the order of the alphabet, ciphers by their number."""
    ciphers = [each for each in points if re.match("TLS_", each)]
    yield from sorted(set(points) - set(ciphers))
    if ciphers:
        yield f"{len(ciphers)} ciphers"


def _versions() -> Iterator[str]:
    for name, command, pattern in (
        ("Postfix", ["postconf", "-dh", "mail_version"], r"(\S+)"),
        ("", ["openssl", "version"], r"(OpenSSL \S+)"),
        (
            "testssl.sh",
            [PROGRAM or "", "--version"],
            r"testssl\S* +(?:version +)?([\d.]+)",
        ),
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        found = re.search(pattern, done.stdout)
        yield f"{name} {found[1] if found else '?'}".strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
