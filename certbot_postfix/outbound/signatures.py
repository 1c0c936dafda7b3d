"""Detached signatures of OpenPGP, verified by gpgv(1).  Raises `PolicyError`."""

from pathlib import Path

from certbot_postfix.errors import excerpt
from certbot_postfix.formats.policy import PolicyError
from certbot_postfix.system import files, programs

# What gpgv says of a signature by a key that it has, GnuPG's doc/DETAILS.  The exit
# status does not tell: it is 0 for these, and 2 if one of several keys is missing, as
# it is where a list is signed by an old and a new key while these change.
_REFUSED = {
    "BADSIG": "the signature is of something else",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key that signed it has expired",
    "REVKEYSIG": "the key that signed it was revoked",
}


def fault(body: bytes, signature: bytes, keyring: str, beside: Path) -> str:
    """Return why *signature* is not one of *body* by a key in *keyring*, "" if it is.

    All are written *beside* a file, in a directory for root alone, and removed.
    """
    # The keyring, too: gpgv would wait for a FIFO that is put in its place.
    paths = [beside.with_suffix(suffix) for suffix in (".gpg", ".asc", ".new")]
    try:
        keys = files.read(Path(keyring))
        for path, text in zip(paths, (keys, signature, body), strict=True):
            files.replace(path, text, mode=0o600)
        command = ["gpgv", "--status-fd", "1", "--keyring", *map(str, paths)]
        done = programs.run(command, check=False)
    finally:
        files.remove(*paths)
    # Not splitlines(): the name of a key's owner may have more than it escapes.
    status = {line.split()[1] for line in done.stdout.split("\n") if _is_status(line)}
    unknown = "ERRSIG" in status  # of a key that is not there yet, or not any more
    good = "GOODSIG" in status and "BADSIG" not in status
    if good and (unknown or not done.returncode):
        return ""
    why = [reason for word, reason in _REFUSED.items() if word in status]
    return ", and ".join(why) or programs.complaint(done)


def _is_status(line: str) -> bool:
    return line.startswith("[GNUPG:] ") and len(line.split()) > 1


def check(keyring: str) -> None:
    """Raise `PolicyError` for what gpgv(1) would not find, or not understand."""
    if not Path(keyring).is_absolute():  # gpgv looks for it in ~/.gnupg
        raise PolicyError(
            f"the keyring {excerpt(keyring)} is not an absolute path, so no list can be"
            " verified"
        )
    if files.read(Path(keyring)).lstrip().startswith(b"-----BEGIN"):
        raise PolicyError(
            f"the keyring {keyring} is armored, which gpgv does not read, so no list"
            " can be verified",
            hint=f"gpg --dearmor {keyring}, and name the file that it writes",
        )
