"""Copies of certbot's files that Postfix reads, and that no renewal reaches.

A copy is known by the names, the type of key and the issuer of its certificate alone:
certbot's are replaced by such.  `outdated` is pure, `read` reads files; neither raises.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from certbot_postfix.errors import CertificateError, Error
from certbot_postfix.inbound import bundles, chain_files, sni
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.system import files
from certbot_postfix.tls import certificates
from certbot_postfix.tls.certificates import Certificate

# The lineages by the names and the type of key of their certificates.
Index = dict[tuple[frozenset[str], str], list[tuple[str, Certificate]]]


@dataclass(frozen=True, slots=True)
class Outdated:
    """A *path* that has the certificate *leaf*, where *lineage* has a newer one."""

    path: Path
    leaf: Certificate
    lineage: str

    def message(self, now: datetime) -> str:
        """Say which certificate is out of date."""
        return (
            f"certbot renewed {self.lineage}, but {self.path} still has the previous"
            f" certificate (SHA-256 {self.leaf.digest[:16]}...), which"
            f" {self.leaf.expiry(now)}"
        )

    def hint(self, root: Path, options: Sequence[str]) -> str:
        """Say how to deploy the renewed one; bundles are below *root*.

        *options* are the words that both commands need for this Postfix.
        """
        words = ["--cert-name", self.lineage, *options]
        if bundles.is_bundle(self.path, root):
            return shlex.join(["certbot-postfix", "deploy", *words])
        command = shlex.join(["certbot", "install", "-i", "postfix", *words])
        return f"{command}, in place of the copy"


def outdated(
    in_use: Mapping[Path, Certificate],
    lineages: Mapping[str, Certificate],
    root: Path,
) -> dict[Path, Outdated]:
    """Return which files *in_use*, with their leaves, are behind one of *lineages*."""
    index: Index = {}
    for name, leaf in lineages.items():
        index.setdefault((leaf.names, leaf.key_type), []).append((name, leaf))
    copies: dict[Path, Outdated] = {}
    for path, old in in_use.items():
        if name := lineage_of(path, root):
            new = lineages.get(name)
            if new and new != old and new.not_before >= old.not_before:
                copies[path] = Outdated(path, old, name)
            continue
        for name, new in index.get((old.names, old.key_type), ()):
            if new.not_before > old.not_before and _issuer(old) == _issuer(new):
                copies[path] = Outdated(path, old, name)
                break
    return copies


def lineage_of(path: Path, root: Path) -> str:
    """Return the lineage that *path* belongs to by its place, or empty."""
    if bundles.is_bundle(path, root):
        return path.stem
    certbot = root.parent
    inside = path.parent.parent in (certbot / "live", certbot / "archive")
    return path.parent.name if inside else ""


def _issuer(certificate: Certificate) -> str:
    """Return who issued it: an organisation has several CAs in turn."""
    parts = certificate.issuer.split(",")
    matches = [part for part in parts if part.startswith("O=")]
    return matches[0] if matches else certificate.issuer


def read(
    configuration: Configuration, root: Path, lineages: Iterable[Lineage]
) -> list[Outdated]:
    """Return which files in use, that are not ours, are behind one of *lineages*."""
    paths = {
        path
        for chain in chain_files.every_chain(configuration)
        if not chain.client
        for path in chain.files
    }
    for _, table in sni.tables(configuration):
        if table != configuration.directory / sni.NAME:
            named = {path for row in sni.entries(_text(table)).values() for path in row}
            paths |= {chain_files.resolved(Path(name)) for name in named}
    foreign = sorted(path for path in paths if not bundles.is_bundle(path, root))
    in_use = {path: leaf for path in foreign if (leaf := _leaf(path))}
    # To look at all lineages takes time.
    newest = {lineage.name: lineage.leaf() for lineage in lineages} if in_use else {}
    known = {name: leaf for name, leaf in newest.items() if leaf}
    return list(outdated(in_use, known, root).values())


def _leaf(path: Path) -> Certificate | None:
    try:
        return certificates.leaf(_text(path))
    except CertificateError:
        return None


def _text(path: Path) -> bytes:
    try:
        return files.read(path)
    except Error:  # who needs the file reports it
        return b""
