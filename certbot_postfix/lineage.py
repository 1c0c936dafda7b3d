"""A lineage of certbot's: the newest key and chain of one certificate.

Reads the files that certbot wrote, and never writes one; raises `CertificateError`.
"""

from dataclasses import dataclass
from pathlib import Path

from certbot_postfix import certificates, files
from certbot_postfix.certificates import Bundle
from certbot_postfix.errors import CertificateError


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

    def missed_by(self, bundle: Path) -> bool:
        """Whether *bundle* holds something else, or was not proven when it was written.

        The bundle before it lies beside it until then.
        """
        if files.leftovers(bundle):
            return True
        text = certificates.joined(files.read(self.key), files.read(self.fullchain))
        return files.read(bundle) != text

    def bundle(self) -> Bundle:
        """Read it; raises `CertificateError` if key and chain do not fit."""
        try:
            return Bundle.from_pem(files.read(self.key), files.read(self.fullchain))
        except CertificateError as error:
            raise CertificateError(
                f"lineage {self.name}: {error.message}: nothing was changed",
                hint=error.hint.replace("NAME", self.name),
            ) from error
