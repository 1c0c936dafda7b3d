"""Private keys stay with root, from the first byte on.

strace shows every file that a real certbot, and all that it runs, writes: what is in it
and who may read it at that moment.  The worst umask is in force meanwhile.
"""

import base64
import re
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.lab import Authority, Certbot, Pebble, PrivatePostfix, install_lineage
from tests.lab.postmap import usual_type
from tests.test_table_faults import LARGE, SHOP, Shop

pytestmark = pytest.mark.postfix

NAME = "mx.example.org"

MARK = "PRIVATE KEY"

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def certbot(base: Path, pebble: Pebble) -> Certbot:
    """The newest certbot, which obtains certificates from Pebble."""
    return Certbot(base, pebble=pebble)


def options(postfix: PrivatePostfix) -> list[str]:
    """Return what a user has to say, since this Postfix is not the usual one."""
    return ["-i", "postfix", "--postfix-config-dir", str(postfix.config_dir)]


def files(directory: Path) -> list[Path]:
    """Return the regular files below *directory*."""
    return [
        path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]


def secrets(base: Path) -> set[str]:
    """Return the lines of all private keys below *base*, and what announces a key.

    They are told twice, the second time as a database has them: in base64, in pieces.
    """
    found = {MARK}
    for path in files(base):
        for pem in _KEY.findall(path.read_bytes()):
            key = serialization.load_pem_private_key(pem, password=None)
            # A private key ends, or begins, with the public one, which is no secret.
            public = key.public_key().public_bytes(
                serialization.Encoding.DER,
                serialization.PublicFormat.SubjectPublicKeyInfo,
            )
            found |= {
                line.decode()
                for line in pem.splitlines()[1:-1]
                if len(line) > 40 and base64.b64decode(line) not in public
            }
            found |= {
                base64.b64encode(piece).decode()
                for piece in map(bytes, zip(*[iter(pem)] * 30, strict=False))
                if b"-" not in piece and not _is_public(piece, public)
            }
    return found


def _is_public(piece: bytes, public: bytes) -> bool:
    """Tell if a piece of PEM is from *public*, which is in each certificate request."""
    text = piece.replace(b"\n", b"")
    return any(base64.b64decode(text[at:][:24]) in public for at in range(4))


_KEY = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n.+?-----END [A-Z ]*-----", re.DOTALL
)


def holders(base: Path, lines: Iterable[str]) -> set[Path]:
    """Return the files below *base* that hold one of *lines*."""
    wanted = [line.encode() for line in lines]
    return {
        path
        for path in files(base)
        if any(line in path.read_bytes() for line in wanted)
    }


# The watch

_CALLS = (
    "open,openat,creat,write,writev,pwrite64,pwritev,sendfile,copy_file_range,chmod,"
    "fchmod,fchmodat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,umask,execve"
)
_LINE = re.compile(r"(?P<pid>\d+) +(?P<text>.*)")
_CALL = re.compile(
    r"(?P<name>\w+)\((?P<args>.*)\) += (?P<result>-?\d+)(?:<(?P<fd>.*)>)?"
)
_FD = r"\b\d+<([^>]*)>"
_PATH = r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)"'


class Watch:
    """What strace tells about files with private keys, as `readable` and `touched`.

    A mode counts as it is asked for, with the umask that the process has chosen itself,
    and for ever.
    """

    def __init__(self, base: Path) -> None:
        self._trace = base / "strace"
        self._base = base
        self._modes = {str(path): path.stat().st_mode for path in files(base)}
        self._with_key = {str(path) for path in holders(base, secrets(base))}
        self._umask: dict[str, int] = {}
        self.readable: list[str] = []
        self.touched: set[str] = set()

    def run(self, argv: Sequence[str], environment: dict[str, str]) -> Done:
        """Run *argv* to its end under the watch."""
        watching = ["strace", "-f", "-y", "-qq", "-s", "65536", "--signal=none"]
        done = subprocess.run(
            [*watching, "-e", f"trace={_CALLS}", "-o", str(self._trace), *argv],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            umask=0,
            timeout=120,
        )
        text = self._trace.read_text(errors="replace")
        self._trace.unlink()
        self._secrets = secrets(self._base)
        for pid, line in _whole(text):
            self._follow(pid, line)
        return done

    def _follow(self, pid: str, line: str) -> None:
        call = _CALL.match(line)
        if not call or int(call["result"]) < 0:
            return
        name, args = call["name"], call["args"]
        if name == "umask":
            self._umask[pid] = int(args, 8)
        elif name == "execve":
            if any(secret in args for secret in self._secrets):
                self.readable.append("a key is in a command line")
        else:
            self._follow_file(name, args, call["fd"], line, self._umask.get(pid, 0))

    def _follow_file(
        self, name: str, args: str, fd: str, line: str, umask: int
    ) -> None:
        match name.removesuffix("2").removesuffix("at").removeprefix("p"):
            case "open" | "creat":
                self._open(fd, line, umask)
            case "write" | "writev" | "write64":  # and with a p before
                if any(secret in args for secret in self._secrets):
                    self._note(re.findall(_FD, args)[0])
            case "sendfile" | "copy_file_range":
                first, second = re.findall(_FD, args)
                self._copy(
                    *((second, first) if name == "sendfile" else (first, second))
                )
            case "fchmod" | "chmod":
                self._set_mode(args)
            case "rename" | "link" | "unlink":
                self._name(name, *self._paths(args))

    def _open(self, path: str, line: str, umask: int) -> None:
        mode = re.search(r", (0\d*)\) +=", line)
        if mode:  # as there is if it may create; a file that exists keeps its own
            self._modes.setdefault(path, int(mode[1], 8) & ~umask)

    def _name(self, call: str, old: str, new: str | None = None) -> None:
        if new:
            self._link(old, new)
        if not call.startswith("link"):
            self._forget(old)

    def _copy(self, source: str, target: str) -> None:
        if source in self._with_key:
            self._note(target)

    def _set_mode(self, args: str) -> None:
        (path,) = re.findall(_FD, args)[:1] or self._paths(args)
        mode = int(re.findall(r", (0\d*)", args)[0], 8)
        # Who opened it while it was readable reads what is written later.
        self._modes[path] = self._modes.get(path, 0) | mode
        if path in self._with_key:
            self._note(path)

    def _link(self, old: str, new: str) -> None:
        self._forget(new)
        if old in self._modes:
            self._modes[new] = self._modes[old]
        if old in self._with_key:
            self._note(new)

    def _forget(self, path: str) -> None:
        self._modes.pop(path, None)
        self._with_key.discard(path)

    def _note(self, path: str) -> None:
        self._with_key.add(path)
        self.touched.add(path)
        mode = self._modes.get(path)
        if mode is None:  # a pipe, a socket, a terminal
            self.readable.append(f"{path} is no file that was seen to be made")
        elif mode & 0o077:
            self.readable.append(f"{path} has mode {stat.S_IMODE(mode):04o}")

    def _paths(self, args: str) -> list[str]:
        found = [str(Path(start, path)) for start, path in re.findall(_PATH, args)]
        # Where a process is, is not known: a relative name means the worst.
        return [
            next((key for key in self._with_key if key.endswith(f"/{path}")), path)
            for path in found
        ]


def _whole(text: str) -> Iterable[tuple[str, str]]:
    """Return processes and calls, in one piece those that others interrupted."""
    begun: dict[str, str] = {}
    for found in _LINE.finditer(text):
        pid, line = found["pid"], found["text"]
        if line.endswith(" <unfinished ...>"):
            begun[pid] = line.removesuffix(" <unfinished ...>")
        elif resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", line):
            yield pid, begun.pop(pid, "") + resumed[1]
        else:
            yield pid, line


SCRIPT = """
import os, shutil, sys
os.chdir({base!r})
key = open("key").read()
def write(name, mode):
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    os.write(fd, b"first, something else")
    os.write(fd, key.encode())
    return fd
"""

LEAKS = {
    "a file that all may read": "write('new', 0o644)",
    "a file that the group may read": "write('new', 0o640)",
    "a mode that is mended too late": "os.fchmod(write('new', 0o644), 0o600)",
    "a mode that is mended before the content": (
        "fd = os.open('new', os.O_CREAT | os.O_WRONLY, 0o644); os.fchmod(fd, 0o600);"
        " os.write(fd, key.encode())"
    ),
    "a mode that is opened by descriptor": "os.fchmod(write('new', 0o600), 0o644)",
    "a mode that is opened by name": "write('new', 0o600); os.chmod('new', 0o644)",
    "a mode that is opened for a while": (
        "write('new', 0o600); os.chmod('new', 0o644); os.chmod('new', 0o600)"
    ),
    "an old file that all may read": (
        "os.close(os.open('new', os.O_CREAT, 0o644)); write('new', 0o600)"
    ),
    "a renamed file": (
        "write('old', 0o600); os.rename('old', 'new'); os.chmod('new', 0o604)"
    ),
    "a second name": (
        "write('old', 0o600); os.link('old', 'new'); os.chmod('new', 0o604)"
    ),
    "a copy": "shutil.copyfile('key', 'new')",
    "the key that was there": "os.chmod('key', 0o644)",
    "a part of a key": "print(key.splitlines()[2])",
    "standard output": "print(key)",
    "a child": "os.fork() or write('new', 0o644)",
    "an umask that is another process's": "os.fork() or os.umask(0o77);"
    " os.wait(); write('new', 0o644)",
    "base64": (
        "import base64; key = base64.b64encode(key.encode()).decode();"
        " write('new', 0o644)"
    ),
    "a command line": "os.spawnl(os.P_WAIT, '/bin/true', 'true', key)",
}
CARE = {
    "a file for root alone": "write('new', 0o600)",
    "a mode that is stricter still": "os.fchmod(write('new', 0o600), 0o400)",
    "an umask": "os.umask(0o77); write('new', 0o644)",
    "a readable file without a key": "open('new', 'w').write('nothing')",
    "a name of a key that is used again": (
        "write('new', 0o600); os.unlink('new'); open('new', 'w').write('nothing')"
    ),
}


@pytest.fixture
def watch(base: Path, authority: Authority) -> Watch:
    """Watch a directory in which there is a key."""
    key = base / "key"
    key.touch(mode=0o600)
    key.write_bytes(authority.issue(NAME).key_pem)
    return Watch(base)


def watched(watch: Watch, base: Path, code: str) -> list[str]:
    """Return what *watch* finds wrong with some Python *code*."""
    script = SCRIPT.format(base=str(base)) + code
    done = watch.run([sys.executable, "-I", "-S", "-c", script], {})
    assert done.returncode == 0, done.stderr
    return watch.readable


@pytest.mark.parametrize("code", LEAKS.values(), ids=LEAKS)
def test_the_watch_notices_a_key_in(watch, base, code):
    assert watched(watch, base, code)


@pytest.mark.parametrize("code", CARE.values(), ids=CARE)
def test_the_watch_lets_pass(watch, base, code):
    assert not watched(watch, base, code)


# certbot under the watch


def deploy(certbot: Certbot, postfix: PrivatePostfix) -> list[str]:
    """Return a command that obtains and deploys a certificate."""
    return certbot.argv("run", "-a", "standalone", "-d", NAME, *options(postfix))


def renew(certbot: Certbot, _postfix: PrivatePostfix) -> list[str]:
    """Return a command that renews a certificate."""
    return certbot.argv("renew", "--force-renewal")


def roll_back(certbot: Certbot, postfix: PrivatePostfix) -> list[str]:
    """Return a command that undoes a deployment."""
    return certbot.argv("rollback", *options(postfix))


def without_reload(postfix: PrivatePostfix) -> list[str]:
    """Return options under which the first reload fails, so that work is undone."""
    path = postfix.base / "postfix-without-reload"
    path.write_text(
        "#!/bin/sh\n"
        f'[ "$3" != reload ] || ! mkdir {path}.once 2> /dev/null || exit 1\n'
        'exec postfix "$@"\n'
    )
    path.chmod(0o755)
    return ["--postfix-ctl", str(path)]


@pytest.mark.parametrize(
    ("before", "command", "fails"),
    [
        pytest.param(None, deploy, False, id="a deployment"),
        pytest.param(None, deploy, True, id="a deployment that is undone"),
        pytest.param(deploy, renew, False, id="a renewal"),
        pytest.param(deploy, renew, True, id="a renewal that is undone"),
        pytest.param(deploy, roll_back, False, id="a rollback"),
    ],
)
def test_no_key_is_ever_readable_by_others_during(
    postfix, base, certbot, before, command, fails
):
    if before:
        subprocess.run(
            before(certbot, postfix),
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=certbot.environment,
        )
    argv = command(certbot, postfix) + (without_reload(postfix) if fails else [])
    watch = Watch(base)

    done = watch.run(argv, certbot.environment)

    assert done.returncode == int(fails), done.stderr
    assert watch.readable == []
    allowed = {
        str(certbot.config_dir / name) for name in ("archive", "keys", "postfix")
    }
    assert {
        path for path in watch.touched if not path.startswith(tuple(allowed))
    } == set()
    # The watch saw what there was to see: certbot's key and the bundle.
    if command is not roll_back:
        assert any("/archive/" in path for path in watch.touched)
        assert str(certbot.bundle(NAME)) in watch.touched


def test_a_bundle_is_for_root_alone_whatever_the_umask(postfix, certbot, authority):
    install_lineage(certbot.config_dir, NAME, authority.issue(NAME))

    subprocess.run(
        certbot.argv("install", "--cert-name", NAME, *options(postfix)),
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=certbot.environment,
        umask=0,
    )

    bundle = certbot.bundle(NAME)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (bundle, bundle.parent)]
    assert modes == [0o600, 0o700]
    assert [bundle.stat().st_uid, bundle.parent.stat().st_uid] == [0, 0]


def test_keys_are_in_certbots_archive_and_in_the_bundle_only(postfix, base, certbot):
    others = holders(base, secrets(base))
    assert {path.name for path in others} == {"snakeoil.key"}
    printed = ""
    for command in (deploy, renew):
        done = subprocess.run(
            [*command(certbot, postfix), "-vvv"],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=certbot.environment,
        )
        printed += done.stdout + done.stderr
    known = secrets(base)

    archive = certbot.config_dir / "archive" / NAME
    keys = {archive / "privkey1.pem", archive / "privkey2.pem"}
    assert holders(base, known) == {*others, *keys, certbot.bundle(NAME)}

    done = certbot("rollback", *options(postfix), "-vvv")
    printed += done.stdout + done.stderr

    assert done.returncode == 0, done.stderr
    assert holders(base, known) == {*others, *keys}
    assert [line for line in known if line in printed or line in certbot.log] == []


# The table of names as a database, which holds copies of keys


@pytest.fixture
def shop(stopped_postfix: PrivatePostfix, authority: Authority) -> Shop:
    """Three lineages on a server with a table of names, when it was opened."""
    return Shop(stopped_postfix, authority)


@pytest.mark.parametrize(
    ("form", "fails"),
    [("hash", False), ("lmdb", False), ("cdb", False), ("hash", True)],
)
def test_no_key_in_a_database_is_ever_readable_by_others(shop, base, form, fails):
    shop.open(form)
    shop.renew("shop", *SHOP)
    if fails:
        shop.postfix.start()
        shop.first_reload_fails()
    watch = Watch(base)

    done = watch.run(
        shop.argv("deploy", "--cert-name", "shop"), shop.certbot.environment
    )

    assert done.returncode == (1 if fails else 3), done.stderr
    # What postmap is asked for a name, it answers to us, through a pipe.
    assert [each for each in watch.readable if not each.startswith("pipe:")] == []
    assert str(shop.database(form)) in watch.touched
    own = (str(shop.bundles), str(shop.path))
    private = str(shop.path.with_name(f".{shop.path.name}."))
    assert {
        path for path in watch.touched if not path.startswith((*own, private, "pipe:"))
    } == set()
    told = done.stdout + done.stderr
    assert [line for line in secrets(base) if line in told] == []
    assert stat.S_IMODE(shop.database(form).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "complaint", ["", "postmap: warning: line 1: skipping this entry"]
)
def test_keys_of_a_table_are_in_bundles_and_in_its_database_only(shop, base, complaint):
    shop.open_small()
    shop.lineage("many", *LARGE)
    before = holders(base, secrets(base))
    known = secrets(base)
    if complaint:
        shop.postmap.disturb(f'echo "{complaint}" >&2; exec "$@"')

    done = shop.install("many", "-vvv")

    told = done.stdout + done.stderr + shop.certbot.log
    assert done.returncode == int(bool(complaint))
    assert complaint in told
    made = {shop.certbot.bundle("many"), shop.database(usual_type())}
    assert holders(base, known) - before == (set() if complaint else made)
    assert [line for line in known if line in told] == []
    if complaint:
        return

    done = shop.certbot("rollback", *shop.options, "-vvv")

    assert done.returncode == 0, done.stderr
    assert holders(base, known) == before
    told = done.stdout + done.stderr + shop.certbot.log
    assert [line for line in known if line in told] == []
