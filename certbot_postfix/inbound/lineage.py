"""A lineage of certbot's: the newest key and chain of one certificate.

Reads the files that certbot wrote, and never writes one; raises `CertificateError`.
Each ``certbot renew`` loads this: what reads certificates is imported where it is used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from certbot_postfix.errors import CertificateError, Error
from certbot_postfix.postfix import databases, own_names
from certbot_postfix.system import files
from certbot_postfix.tls.pem import joined

if TYPE_CHECKING:
    from certbot_postfix.tls.bundle import Bundle
    from certbot_postfix.tls.certificates import Certificate


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where certbot keeps the newest key and chain of a certificate."""

    name: str
    key: Path
    fullchain: Path

    @classmethod
    def live(cls, directory: Path, name: str) -> "Lineage":
        """Return the lineage *name* in certbot's directory ``live``."""
        return cls(
            name, directory / name / "privkey.pem", directory / name / "fullchain.pem"
        )

    def advice(self, hint: str) -> str:
        """Return *hint* for this lineage, which certbot can renew if it is in live/."""
        if hint.startswith("certbot renew") and self.fullchain.parent.parent.name != (
            "live"
        ):
            return "give another pair with --key-path and --fullchain-path"
        return hint.replace("NAME", self.name)

    def pending_for(self, bundle: Path, directory: Path) -> bool:
        """Whether Postfix may have missed the newest version.

        Either *bundle* holds something else, or is not verified since it was written
        (the one before lies beside it until then), or a database in Postfix's
        *directory* is older; or it is gone, but named there.
        """
        if files.backup_of(bundle):
            return True
        if not bundle.exists():
            named = (directory / "main.cf", directory / own_names.SNI_MAP)
            return any(mentions(path, bundle) for path in named)
        text = joined(files.read(self.key), files.read(self.fullchain))
        return files.read(bundle) != text or _older(directory, bundle)

    def leaf(self) -> "Certificate | None":
        """Return the newest leaf certificate, if there is one."""
        from certbot_postfix.tls import certificates  # noqa: PLC0415

        try:
            return certificates.leaf(files.read(self.fullchain))
        except Error:
            return None

    def bundle(self) -> "Bundle":
        """Read it; raises `CertificateError` if key and chain do not fit."""
        from certbot_postfix.tls.bundle import Bundle  # noqa: PLC0415

        try:
            return Bundle.from_pem(files.read(self.key), files.read(self.fullchain))
        except CertificateError as error:
            raise CertificateError(
                f"lineage {self.name}: {error.message}; no changes were made",
                hint=self.advice(error.hint),
            ) from error


def mentions(path: Path, bundle: Path) -> bool:
    """Whether the file *path* has the name of *bundle* in it."""
    return (
        path.is_file()
        and f"{bundle.parent.name}/{bundle.name}".encode() in files.read(path)
    )


def _older(directory: Path, bundle: Path) -> bool:
    """Whether there is a database with an older copy, as from a backup."""
    written = bundle.stat().st_mtime
    existing = [
        path
        for path in databases.possible(directory / own_names.SNI_MAP)
        if path.exists()
    ]
    older = any(path.stat().st_mtime < written for path in existing)
    return older and mentions(directory / own_names.SNI_MAP, bundle)
