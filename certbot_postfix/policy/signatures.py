"""Detached signatures of OpenPGP, verified by gpgv(1).  Raises `PolicyError`."""

from pathlib import Path

from certbot_postfix import files, programs
from certbot_postfix.policy.model import PolicyError, shown


def fault(body: bytes, signature: bytes, keyring: str, beside: Path) -> str:
    """Return why *signature* is not one of *body* by a key in *keyring*, "" if it is.

    Both are written *beside* a file, in a directory for root alone, and removed.
    """
    paths = [beside.with_suffix(each) for each in (".asc", ".new")]
    try:
        for path, text in zip(paths, (signature, body), strict=True):
            files.replace(path, text, mode=0o600)
        command = ["gpgv", "--keyring", keyring, *map(str, paths)]
        done = programs.run(command, check=False)
    finally:
        files.remove(*paths)
    return programs.complaint(done) if done.returncode else ""


def check(keyring: str) -> None:
    """Raise `PolicyError` for what gpgv(1) would not find, or not understand."""
    if not Path(keyring).is_absolute():  # gpgv looks for it in ~/.gnupg
        raise PolicyError(
            f"the keyring {shown(keyring)} is not an absolute path, so no list can be"
            " verified"
        )
    if files.read(Path(keyring)).lstrip().startswith(b"-----BEGIN"):
        raise PolicyError(
            f"the keyring {keyring} is armored, which gpgv does not read, so no list"
            " can be verified",
            hint=f"gpg --dearmor {keyring}, and name the file that it writes",
        )
