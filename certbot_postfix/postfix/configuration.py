"""The configuration of an instance, as values: parameters, and entries of master.cf.

Pure: `instance.Postfix` reads it.  The meaning of entries and ``-o`` options is that of
master(5); of the parameters, that of postconf(5).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CHAIN = "smtpd_tls_chain_files"
SNI_MAPS = "tls_server_sni_maps"

# What named certificates before 3.4 had the chain files.
LEGACY = (
    "smtpd_tls_cert_file",
    "smtpd_tls_key_file",
    "smtpd_tls_eccert_file",
    "smtpd_tls_eckey_file",
    "smtpd_tls_dcert_file",
    "smtpd_tls_dkey_file",
)


@dataclass(frozen=True, slots=True)
class Service:
    """An entry of master.cf, with the parameters that its ``-o`` options override.

    *written* has them word by word, *overrides* with each ``$name`` expanded.  *chroot*
    is y, n, or - for the default.
    """

    name: str
    kind: str
    command: str
    overrides: Mapping[str, str]
    written: Mapping[str, str] = field(default_factory=dict)
    chroot: str = "-"

    def __str__(self) -> str:
        return f"{self.name}/{self.kind}"


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that decisions depend on, read once.

    *defaults* are those of the running version, so its keys are the parameters that
    exist; *explicit* is what main.cf says, word by word; *values* is what is in force,
    with each ``$name`` expanded.  *openssl_conf* is the system's, if it has settings of
    TLS.
    """

    directory: Path
    defaults: Mapping[str, str]
    explicit: Mapping[str, str]
    values: Mapping[str, str]
    services: tuple[Service, ...]
    tls_library: str = ""
    ca_bundle: Path | None = None
    openssl_conf: Path | None = None

    @property
    def certbot_options(self) -> list[str]:
        """The words that certbot needs for this instance, none for the usual one."""
        usual = self.defaults.get("config_directory")
        directory = str(self.directory)
        return [] if directory == usual else ["--postfix-config-dir", directory]

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor number; patch levels and snapshot dates do not matter."""
        return version(self.defaults["mail_version"])

    def value(self, name: str, service: Service | None = None) -> str:
        """Return what is in force for *name*, empty if this version knows no such."""
        if service and name in service.overrides:
            return service.overrides[name]
        return self.values.get(name, "")

    def flag(self, name: str, service: Service | None = None) -> bool:
        """Whether *name* is yes: what postconf(5) calls a boolean."""
        return self.value(name, service).lower() == "yes"

    def words(self, name: str, service: Service | None = None) -> list[str]:
        """Return the words of a list, which blanks or commas separate."""
        return words_of(self.value(name, service))


def words_of(text: str) -> list[str]:
    """Return the words of *text*, a list as postconf(5) has them."""
    return text.replace(",", " ").split()


def version(text: str) -> tuple[int, int]:
    """Return major and minor number of a mail_version such as 3.12-20260821."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def names(configuration: Configuration) -> set[str]:
    """Return the public names by which the server calls itself.

    Those in domains for special or private use (RFC 6761 and others) are not public.
    """
    hosts = {
        configuration.value("myhostname", service) for service in configuration.services
    }
    hosts.add(configuration.value("myhostname"))
    return {
        name
        for name in hosts
        if "." in name and name.rpartition(".")[2].lower() not in _SPECIAL
    }


_SPECIAL = frozenset(
    {
        "alt",
        "arpa",
        "example",
        "home",
        "internal",
        "invalid",
        "lan",
        "local",
        "localdomain",
        "localhost",
        "onion",
        "test",
    }
)
