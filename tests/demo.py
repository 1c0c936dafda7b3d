"""The story of two certificates, on the terminal: ``make demo``.

A private Postfix and an ACME server play the machine and Let's Encrypt; certbot and the
plugin are real.  Ends with status 1 and a line that says why, if anything is not as the
README promises.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from tests.lab import Certbot, Pebble, PrivatePostfix, base_directory
from tests.lab.machine import LabError
from tests.lab.postfix import SERVICES

NAME = "mx.example.org"
SECOND = "mail.example.net"

# What certbot prints besides the story.
_CHATTER = ("- - -", "Saving debug log", "If you like Certbot", " * Donating to")


class UnexpectedError(Exception):
    """Something is not as promised."""


def main() -> int:
    """Tell the story; return the exit status."""
    # An end from outside unwinds like any error, so that nothing is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    try:
        with base_directory() as base, Pebble(base) as pebble:
            (base / "mail").mkdir()
            with PrivatePostfix(base / "mail", hostname=NAME) as postfix:
                Story(postfix, Certbot(base, pebble=pebble)).tell()
    except (LabError, UnexpectedError) as error:
        print(f"\ndemo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"\nall as promised, in {time.monotonic() - began:.0f} seconds")
    return 0


class Story:
    """The acts, in order; each raises `UnexpectedError` if it does not end well."""

    def __init__(self, postfix: PrivatePostfix, certbot: Certbot) -> None:
        self.postfix = postfix
        self.certbot = certbot
        self.instance = ["--postfix-config-dir", str(postfix.config_dir)]

    def tell(self) -> None:
        """Install, add another, renew, roll back."""
        heading("A new Postfix presents a self-signed certificate")
        typed(f"cp -a {self.postfix.config_dir} original")
        original, snake_oil = self.postfix.snapshot(), self.served()
        expect(
            all(leaf.subject == leaf.issuer for leaf in snake_oil.values()),
            "the certificates are self-signed",
        )

        heading("One command obtains a certificate, installs it and verifies it")
        self.run(
            "run", "-n", "-a", "standalone", "-i", "postfix", "-d", NAME, *self.instance
        )
        installed = self.served()
        self.expect_lineage(installed)

        heading("A second certificate is served via SNI")
        self.run(
            *("run", "-n", "-a", "standalone", "-i", "postfix", "-d", SECOND),
            *self.instance,
        )
        expect(
            named(self.postfix.served(sni=SECOND)) == SECOND,
            f"a client that requests {SECOND} gets its certificate",
        )
        expect(self.served() == installed, "all others get the same as before")
        main_cf = self.postfix.main_cf.read_bytes()
        typed(f"cp {self.postfix.main_cf} main.cf.deployed")
        self.status()

        heading("A renewal is served at once, without a change of main.cf")
        self.run("renew", "-n", "--force-renewal")
        renewed = self.served()
        self.expect_lineage(renewed)
        expect(
            set(renewed.values()).isdisjoint(installed.values()),
            "it is a new certificate",
        )
        typed(f"cmp {self.postfix.main_cf} main.cf.deployed")
        expect(
            self.postfix.main_cf.read_bytes() == main_cf,
            "main.cf is the same, byte for byte",
        )

        heading("A rollback leaves no trace")
        self.run("rollback", "--checkpoints", "2", "-i", "postfix", *self.instance)
        expect(self.served() == snake_oil, "the old certificate is served again")
        typed(f"diff -r original {self.postfix.config_dir}")
        expect(
            self.postfix.snapshot() == original,
            "the configuration directory is what it was: every byte, mode and owner",
        )

    def run(self, *args: str) -> None:
        """Show the command as a user would type it, and run it in the lab."""
        typed(shlex.join(["certbot", *args]))
        done = self.certbot(*args)
        for line in interesting(done.stdout + done.stderr):
            print(f"  {paint_diff(line)}")
        print()
        if done.returncode:
            raise UnexpectedError(
                f"certbot {args[0]} failed with status {done.returncode};"
                f" the end of its log:\n{self.certbot.log[-2000:]}"
            )

    def status(self) -> None:
        """Show what ``certbot-postfix status`` tells."""
        command = [str(self.certbot.executable.with_name("certbot-postfix"))]
        command += ["--postfix-config-dir", str(self.postfix.config_dir)]
        command += ["--config-dir", str(self.certbot.config_dir), "status"]
        typed("certbot-postfix status")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            print(f"  {line}")
        expect(done.returncode == 0, "no problems")

    def served(self) -> dict[str, x509.Certificate]:
        """Show and return what every service serves now."""
        for name in SERVICES:
            starttls = "" if name == "submissions" else " -starttls smtp"
            typed(
                f"openssl s_client -connect 127.0.0.1:{self.postfix.ports[name]}"
                f"{starttls} </dev/null | openssl x509 -noout -subject -fingerprint"
            )
        leaves = {name: self.postfix.served(name) for name in SERVICES}
        rows: list[Sequence[str]] = [
            ("service", "port", "subject", "issuer", "sha256", "days left")
        ]
        for name, leaf in leaves.items():
            rows.append((name, str(self.postfix.ports[name]), *described(leaf)))
        table(rows)
        return leaves

    def expect_lineage(self, leaves: dict[str, x509.Certificate]) -> None:
        """Expect that every service serves what certbot keeps for the name."""
        live = self.certbot.config_dir / "live" / NAME / "cert.pem"
        current = x509.load_pem_x509_certificate(live.read_bytes())
        expect(
            set(leaves.values()) == {current},
            f"every service serves the certificate in live/{NAME}",
        )


def expect(fact: bool, claim: str) -> None:
    """Say that *claim* holds, or raise."""
    if not fact:
        raise UnexpectedError(f"not true: {claim}")
    print(f"  {style('32', 'ok')}: {claim}")


def described(leaf: x509.Certificate) -> Sequence[str]:
    """Return subject, issuer, beginning of the fingerprint and days left."""
    left = leaf.not_valid_after_utc - datetime.now(timezone.utc)
    fingerprint = leaf.fingerprint(hashes.SHA256()).hex()[:12]
    return named(leaf), common_name(leaf.issuer), fingerprint, str(left.days)


def named(leaf: x509.Certificate) -> str:
    """Return the names of a leaf, which need not have a subject."""
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return " ".join(names.get_values_for_type(x509.DNSName))


def common_name(name: x509.Name) -> str:
    """Return the common name in *name*."""
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print *rows* in columns, the first as the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        line = "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        )
        print("  " + (style("2", line) if number == 0 else line).rstrip())


def interesting(output: str) -> Iterable[str]:
    """Yield the lines that tell something, without runs of empty ones."""
    empty = True
    for line in output.splitlines():
        if not line.startswith(_CHATTER) and not (empty and not line.strip()):
            empty = not line.strip()
            yield line.rstrip()


def paint_diff(line: str) -> str:
    """Colour *line* if it looks like one of a diff."""
    codes = {"+": "32", "-": "31", "@": "36"}
    return style(codes[line[0]], line) if line[:1] in codes else line


def typed(command: str) -> None:
    """Show what a user would type."""
    print(style("1", f"$ {command}"), flush=True)


def heading(text: str) -> None:
    """Begin an act."""
    print(f"\n{style('1;4', text)}\n", flush=True)


def style(code: str, text: str) -> str:
    """Return *text* in a style of ANSI terminals, on a terminal."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\033[{code}m{text}\033[0m"


if __name__ == "__main__":
    sys.exit(main())
