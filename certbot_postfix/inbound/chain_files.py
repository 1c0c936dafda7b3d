"""Which files of keys and certificates main.cf and master.cf name.

Pure, but that it follows symbolic links.  The parameters are those of postconf(5):
smtpd_tls_chain_files, and what there was before.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from certbot_postfix.inbound import bundles
from certbot_postfix.postfix.configuration import CHAIN, LEGACY, Configuration, Service
from certbot_postfix.postfix.services import (
    endpoints,
    presenter,
    with_own_certificate,
)
from certbot_postfix.system.directories import real

# The older parameters for certificate and key, by type of key.
PAIRS = (LEGACY[:2], LEGACY[2:4], LEGACY[4:])

# The parameters of the SMTP client, and of its twin for LMTP, begin so.
CLIENTS = ("smtp", "lmtp")


@dataclass(frozen=True, slots=True)
class Chain:
    """Files that Postfix reads as one chain; *place* and *parameter* name them.

    With the older parameters, the *key* has a file of its own, or the same one.  A file
    is known by the directory that it is really in, however that is spelled.
    """

    place: str
    parameter: str
    files: tuple[Path, ...]
    key: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, each once."""
        return tuple(dict.fromkeys([*self.files, *([self.key] if self.key else [])]))

    @property
    def where(self) -> str:
        """The parameter, and where it is set."""
        return f"{self.parameter} in {self.place}"

    @property
    def client(self) -> bool:
        """Whether it is the SMTP client that presents it, to servers."""
        return self.parameter.startswith(tuple(f"{program}_" for program in CLIENTS))


def every_chain(configuration: Configuration) -> list[Chain]:
    """Return the chains that main.cf and master.cf name, also for the client, once."""
    every = list(chains(configuration))
    for service in with_certificates(configuration):
        every += chains(configuration, presenter(configuration, service))
    for prefix in CLIENTS:
        every += chains(configuration, prefix=prefix)
        for service in configuration.services:
            if service.command in CLIENTS:
                every += chains(configuration, service, prefix)
    return list(dict.fromkeys(every))


def chains(
    configuration: Configuration, service: Service | None = None, prefix: str = "smtpd"
) -> Iterator[Chain]:
    """Yield the chains that main.cf names, or a *service* of master.cf.

    They are those of the server, or of a client with its *prefix*.
    """

    def place(name: str) -> str:
        inside = service and name in service.overrides
        return f"{service} of master.cf" if inside else "main.cf"

    # Relative names are looked up where Postfix's processes run.
    queue = configuration.value("queue_directory")
    name = CHAIN.replace("smtpd", prefix)
    if listed := configuration.words(name, service):
        files = tuple(resolved(Path(queue, name)) for name in listed)
        yield Chain(place(name), name, files)
        return
    for pair in PAIRS:
        certificate, key = (name.replace("smtpd", prefix) for name in pair)
        file = configuration.value(certificate, service)
        # smtpd_tls_cert_file = none means TLS without a default certificate.
        if file not in ("", "none"):
            held = resolved(Path(queue, configuration.value(key, service)))
            files = (resolved(Path(queue, file)),)
            yield Chain(place(certificate), certificate, files, held)


@dataclass(frozen=True, slots=True)
class Half:
    """A certificate of the administrator's that is kept beside a lineage's.

    *files* are those of a list of chain files, *certificate* and *key* those of the
    older parameters.
    """

    key_type: str
    files: tuple[str, ...]
    certificate: str
    key: str


def half(
    configuration: Configuration,
    path: Path,
    key_type: str,
    keys: Callable[[Path], int],
) -> Half | None:
    """Return the half with the certificate in *path*, None if it cannot stand alone.

    *keys* counts the private keys in a file: postconf(5), smtpd_tls_chain_files, lets
    each begin a chain, which the files after it may go on with.
    """
    queue = configuration.value("queue_directory")
    for files in _chains(configuration, keys):
        if path in [resolved(Path(queue, name)) for name in files]:
            alone = keys(Path(queue, files[0])) == 1
            return Half(key_type, files, files[-1], files[0]) if alone else None
    return None


def _chains(
    configuration: Configuration, keys: Callable[[Path], int]
) -> list[tuple[str, ...]]:
    """Return the files of each chain that main.cf names, the key's first."""
    queue = configuration.value("queue_directory")
    if listed := configuration.words(CHAIN):
        groups: list[list[str]] = []
        for file in listed:
            if not groups or keys(Path(queue, file)):
                groups.append([])
            groups[-1].append(file)
        return [tuple(group) for group in groups]
    pairs = ((configuration.value(name) for name in pair) for pair in PAIRS)
    return [tuple(dict.fromkeys((key, certificate))) for certificate, key in pairs]


def configured(
    configuration: Configuration, service: Service | None = None
) -> list[Path]:
    """Return the files that hold the certificates of main.cf, or of a *service*."""
    service = presenter(configuration, service) if service else None
    found = chains(configuration, service)
    return [path for chain in found for path in chain.files]


def resolved(path: Path) -> Path:
    """Return *path* with its directory as it really is: we know our bundles by that."""
    return real(path.parent) / path.name


def deployed(configuration: Configuration, root: Path) -> list[Path]:
    """Return the bundles below *root* that main.cf names."""
    paths = configured(configuration)
    return [path for path in paths if bundles.is_bundle(path, root)]


def named(text: bytes, root: Path) -> list[Path]:
    """Return the bundles below *root* that a configuration file names."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith(b"#"))
    bundle = rb"([^\s,=\0]*)/([^\s,/\0]+)\.pem(?![^\s,])"
    pairs = [pair for line in lines for pair in re.findall(bundle, line)]
    places = {directory: real(Path(os.fsdecode(directory))) for directory, _ in pairs}
    paths = [places[place] / f"{os.fsdecode(name)}.pem" for place, name in pairs]
    return [path for path in paths if bundles.is_bundle(path, root)]


def with_certificates(configuration: Configuration) -> list[Service]:
    """Return the services that present a certificate, of main.cf or of their own."""
    names = {
        endpoint.service
        for endpoint in (
            *endpoints(configuration)[0],
            *with_own_certificate(configuration),
        )
    }
    return [service for service in configuration.services if str(service) in names]
