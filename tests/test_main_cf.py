"""main.cf as people have it: what is planned changes, and nothing else moves."""

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certbot_postfix.change import staging
from certbot_postfix.change.plan import Edit, Plan
from certbot_postfix.change.transaction import Transaction
from certbot_postfix.inbound import main_cf, sni
from certbot_postfix.inbound.main_cf import Target
from certbot_postfix.options import ClientLevel, Profile
from certbot_postfix.postfix.decisions import Change, CommentOut
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.services import endpoints

BUNDLE = Path("/etc/letsencrypt/postfix/mx.example.org.pem")
SERVED = Target({BUNDLE: "ECDSA"})


class Checkpoint:
    """Keeps what was saved, as certbot's Reverter does."""

    def __init__(self) -> None:
        self.saved: dict[Path, bytes] = {}
        self.notes: list[str] = []

    def before_change(self, path: Path, note: str) -> None:
        self.saved[path] = path.read_bytes()
        self.notes.append(note)

    def before_creation(self, path: Path) -> None:
        raise AssertionError(f"main.cf is never created, nor is {path}")


def write(lab, text: bytes) -> None:
    lab.main_cf.write_bytes(text)
    lab.settle()


def deploy(
    lab,
    checkpoint: Checkpoint | None = None,
    profile: Profile = Profile.INTERMEDIATE,
    client: ClientLevel = ClientLevel.ENCRYPT,
) -> Plan:
    """Deploy as the plugin would."""
    postfix = Postfix(lab.config_dir)
    decisions = main_cf.decide(postfix.read(), SERVED, profile, client)
    edit = staging.stage(postfix, decisions, None)
    planned = Plan(decisions, edit, (Edit(lab.config_dir / sni.NAME, None, None),))
    Transaction((), checkpoint or Checkpoint()).commit(planned)
    return planned


def explicit(lab) -> dict[str, str]:
    """Return what `postconf -n` says; a name of the user's own is there while used."""
    known = {line.partition(" =")[0] for line in lab.postconf("-d").splitlines()}
    pairs = (line.partition(" =") for line in lab.postconf("-n").splitlines())
    return {name: value.strip() for name, _, value in pairs if name in known}


def intended(planned: Plan, before: dict[str, str]) -> dict[str, str]:
    """Return what `postconf -n` should say after *planned*."""
    retired = {item.name for item in planned.decisions if isinstance(item, CommentOut)}
    kept = {name: value for name, value in before.items() if name not in retired}
    return kept | changes(planned)


def changes(planned: Plan) -> dict[str, str]:
    return {
        item.name: item.new for item in planned.decisions if isinstance(item, Change)
    }


def physical_lines(text: bytes) -> list[tuple[str, bool, bytes]]:
    """Return each line with the parameter it belongs to, and whether it names it.

    A comment belongs to none, wherever it stands: postconf(5).
    """
    owner, found = "", []
    for line in re.findall(rb"[^\n]*\n|[^\n]+", text):
        named = re.match(rb"[^\s=#]+", line)
        if not line.strip() or line.lstrip().startswith(b"#"):
            found.append(("", False, line))
            continue
        if named:
            owner = named[0].decode()
        found.append((owner, bool(named), line))
    return found


def assert_nothing_else_moved(planned: Plan, before: bytes, after: bytes) -> None:
    """Compare *after* with what an editor who knows main.cf would have made."""
    crlf = before.count(b"\r\n") == before.count(b"\n")
    end = b"\r\n" if crlf else b"\n"
    new = {
        name: f"{name} = {value}".encode() for name, value in changes(planned).items()
    }
    retired = {item.name for item in planned.decisions if isinstance(item, CommentOut)}
    expected, present = b"", set()
    for owner, names, line in physical_lines(before):
        present.add(owner)
        if owner in new:
            expected += new[owner] + end if names else b""
        elif owner in retired:
            expected += b"#" + line.rstrip(b"\r\n") + end
        else:
            expected += line
    added = {new[name] for name in new.keys() - present}
    if added and not expected.endswith(b"\n"):
        expected += end
    head, tail = after[: len(expected)], after[len(expected) :]
    assert head == expected
    assert tail == b"".join(line + end for line in sorted(added))


NO_END = "\0"


def shown(text: bytes) -> list[str]:
    """Return the lines of *text* as a diff shows them."""
    plain = text.decode(errors="backslashreplace").replace("\r\n", "\n")
    *ended, last = plain.split("\n")
    return [*ended, last + NO_END] if last else ended


def patched(before: list[str], diff: str) -> list[str]:
    """Apply *diff*, as patch(1) does."""
    marked = diff.replace("\n\\ No newline at end of file\n", f"{NO_END}\n")
    after: list[str] = []
    at = 0
    for line in marked.split("\n")[2:-1]:
        sign, text = line[0], line[1:]
        if sign == "@":
            start = int(line.split()[1].partition(",")[0].lstrip("-")) - 1
            after += before[at:start]
            at = start
        elif sign == "+":
            after.append(text)
        else:
            assert (sign, text) in ((" ", before[at]), ("-", before[at]))
            after += [text] if sign == " " else []
            at += 1
    return after + before[at:]


def assert_shown_is_written(planned: Plan, before: bytes, after: bytes) -> None:
    """Compare what the diff makes of *before* with the file *after*."""
    assert patched(shown(before), planned.diff()) == shown(after)
    assert (planned.main_cf.before, planned.main_cf.after) == (before, after)


def without(text: bytes, *names: bytes) -> bytes:
    return re.sub(rb"(?m)^(" + b"|".join(names) + rb")\s*=.*\n", b"", text)


def odd(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


AS_PEOPLE_HAVE_IT = {
    "Debian's default": lambda text: text,
    "no final newline": lambda text: text.rstrip(b"\n"),
    "no final newline after a comment": lambda text: text + b"# the end",
    "no final newline after a parameter to be changed": lambda text: (
        text + b"smtpd_tls_auth_only = no"
    ),
    "CRLF": lambda text: text.replace(b"\n", b"\r\n"),
    "CRLF without a final one": lambda text: text.replace(b"\n", b"\r\n")[:-2],
    "CRLF here and there": lambda text: text.replace(b"\n\n", b"\r\n\n"),
    "continuation lines with comments inside": lambda text: (
        text
        + odd(
            "smtpd_tls_protocols =",
            "# no SSL",
            "  !SSLv2,",
            "   # really none",
            "",
            "\t!SSLv3",
            "smtpd_recipient_restrictions = permit_mynetworks,",
            "# the blacklist",
            "   reject_unauth_destination",
            "smtpd_tls_eccert_file =",
            "# elliptic",
            "   /etc/ssl/ec.pem",
            "# after it",
        )
    ),
    "the same parameter twice": lambda text: (
        text
        + odd(
            "smtpd_tls_auth_only = no",
            "# no, I mean:",
            "smtpd_tls_auth_only =",
            "   no",
            "smtpd_tls_cert_file = /etc/ssl/second.pem",
            "smtp_tls_security_level = none",
        )
    ),
    "values with $name and ${x?y}": lambda text: (
        without(text, b"smtpd_tls_cert_file", b"smtpd_tls_key_file")
        + odd(
            "tls_home = /etc/ssl",
            "smtpd_tls_cert_file = $tls_home/${tls_home?mx}.pem",
            "smtpd_tls_key_file = ${smtpd_tls_cert_file}",
            "smtpd_tls_loglevel = ${tls_home?0}",
            "smtp_tls_security_level = ${smtpd_tls_security_level}",
            "smtpd_banner = $myhostname ESMTP ${mail_name?yes} $$5",
        )
    ),
    "odd white space": lambda text: (
        text
        + b"smtpd_tls_auth_only\t =\t no  \t\n"
        + b"smtpd_tls_loglevel=0\n"
        + b"smtpd_tls_received_header   =no \f\n"
        + b"smtpd_tls_eccert_file=\t/etc/ssl/ec.pem \n"
    ),
    "comments that are not UTF-8": lambda text: (
        b"# Gr\xfc\xdfe vom Hauptquartier\n" + text + b"  # \xff\xfe\x80\n"
    ),
    "a form feed in a comment": lambda text: text + b"# page\f two\n",
    "a comment that looks like a setting": lambda text: (
        text + b"#smtpd_tls_chain_files = /old.pem\n # smtpd_tls_auth_only = no\n"
    ),
    "the old parameters": lambda text: (
        without(text, b"smtpd_tls_security_level", b"smtp_tls_security_level")
        + odd(
            "smtpd_use_tls = yes",
            "smtp_use_tls = yes",
            "smtpd_tls_eccert_file = /etc/ssl/ec.pem",
            "smtpd_tls_eckey_file = $smtpd_tls_eccert_file",
        )
    ),
    "another chain": lambda text: (
        text + b"smtpd_tls_chain_files = /etc/a.pem, /etc/b\n"
    ),
    "another parameter that refers to the certificate": lambda text: (
        text + b"smtp_tls_cert_file = $smtpd_tls_cert_file\n"
    ),
    "a very long line": lambda text: text + b"mynetworks = " + b"127.0.0.1 " * 5000,
}


@pytest.mark.parametrize("form", AS_PEOPLE_HAVE_IT)
def test_what_the_diff_shows_changes_and_nothing_else_moves(stopped_postfix, form):
    write(
        stopped_postfix, AS_PEOPLE_HAVE_IT[form](stopped_postfix.main_cf.read_bytes())
    )
    before, said = stopped_postfix.main_cf.read_bytes(), explicit(stopped_postfix)

    planned = deploy(stopped_postfix)

    after = stopped_postfix.main_cf.read_bytes()
    assert changes(planned)["smtpd_tls_chain_files"] == str(BUNDLE)
    assert explicit(stopped_postfix) == intended(planned, said)
    assert_nothing_else_moved(planned, before, after)
    assert_shown_is_written(planned, before, after)


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("form", ["Debian's default", "CRLF", "the old parameters"])
def test_a_second_deployment_finds_nothing_to_do(stopped_postfix, form, profile):
    write(
        stopped_postfix, AS_PEOPLE_HAVE_IT[form](stopped_postfix.main_cf.read_bytes())
    )
    deploy(stopped_postfix, profile=profile)
    postfix = Postfix(stopped_postfix.config_dir)

    decisions = main_cf.decide(postfix.read(), SERVED, profile, ClientLevel.ENCRYPT)

    assert [item for item in decisions if isinstance(item, Change | CommentOut)] == []
    assert staging.stage(postfix, decisions, None).empty


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_final_newline_that_is_missing_stays_missing(stopped_postfix, newline):
    deploy(stopped_postfix)
    ours = stopped_postfix.main_cf.read_bytes().replace(bytes(BUNDLE), b"/old.pem")
    ours = (ours + b"# the end").replace(b"\n", newline)
    write(stopped_postfix, ours)

    deploy(stopped_postfix)

    after = stopped_postfix.main_cf.read_bytes()
    assert after != ours
    assert after.endswith(newline + b"# the end")


def test_what_a_plan_changes_elsewhere_is_known_afterwards(stopped_postfix):
    stopped_postfix.set(smtpd_tls_security_level="none")
    with stopped_postfix.master_cf.open("a") as file:
        # Its level is that of smtpd, as long as nobody says otherwise.
        file.write("127.0.0.1:2525 inet n - n - 1 postscreen\n")
        file.write("outbound unix - - n - - smtp\n")
        file.write("  -o smtp_tls_security_level=$smtpd_tls_security_level\n")
    stopped_postfix.settle()
    postfix = Postfix(stopped_postfix.config_dir)
    before = postfix.read()

    deploy(stopped_postfix)

    known, after = postfix.read_again(before), postfix.read()
    assert (known.explicit, known.services) == (after.explicit, after.services)
    of_the_moment = {"process_id": ""}
    assert {**known.values, **of_the_moment} == {**after.values, **of_the_moment}
    assert "127.0.0.1:2525" in map(str, endpoints(after)[0])


def test_the_least_profile_touches_the_certificate_only(stopped_postfix):
    planned = deploy(stopped_postfix, profile=Profile.CERTIFICATE)

    assert changes(planned) == {"smtpd_tls_chain_files": str(BUNDLE)}
    main_cf = planned.main_cf
    assert main_cf.after.count(b"\n") == main_cf.before.count(b"\n") + 1


def test_the_checkpoint_has_the_old_file_and_the_plan_in_words(stopped_postfix):
    before, checkpoint = stopped_postfix.main_cf.read_bytes(), Checkpoint()

    planned = deploy(stopped_postfix, checkpoint)

    assert checkpoint.saved == {stopped_postfix.main_cf: before}
    assert checkpoint.notes == [planned.describe()]


def test_no_other_file_of_the_configuration_changes(stopped_postfix):
    before = stopped_postfix.snapshot()

    deploy(stopped_postfix)

    after = stopped_postfix.snapshot()
    assert after["main.cf"].content != before["main.cf"].content
    assert after | {"main.cf": before["main.cf"]} == before


def test_owner_and_mode_stay(stopped_postfix):
    shutil.chown(stopped_postfix.main_cf, "root", "postfix")
    stopped_postfix.main_cf.chmod(0o640)
    before = stopped_postfix.snapshot()["main.cf"]

    deploy(stopped_postfix)

    after = stopped_postfix.snapshot()["main.cf"]
    assert after._replace(content=None) == before._replace(content=None)


@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
def test_a_link_stays_and_its_target_changes(stopped_postfix, base, absolute):
    target = base / "managed" / "postfix-main.cf"
    target.parent.mkdir()
    stopped_postfix.main_cf.rename(target)
    link = target if absolute else Path("..", "managed", target.name)
    stopped_postfix.main_cf.symlink_to(link)
    before, checkpoint = target.read_bytes(), Checkpoint()

    planned = deploy(stopped_postfix, checkpoint)

    assert stopped_postfix.main_cf.readlink() == link
    assert list(target.parent.iterdir()) == [target]
    assert checkpoint.saved == {target: before}
    assert_nothing_else_moved(planned, before, target.read_bytes())


# The law behind the examples

_COMMENTS = st.sampled_from(
    [
        b"# plain\n",
        b"  # indented\n",
        b"#smtpd_tls_auth_only = no\n",
        b"# smtpd_tls_chain_files = /commented.pem\n",
        "# grüße\n".encode(),
        b"# gr\xfc\xdfe\f\n",
        b"\n",
        b" \t\n",
    ]
)
_VALUES = {
    "smtpd_tls_cert_file": ["/a.pem", "$daemon_directory/a.pem", "none", ""],
    "smtpd_tls_key_file": ["/a.key", "$smtpd_tls_cert_file"],
    "smtpd_tls_eccert_file": ["/ec.pem", "${daemon_directory?/ec.pem}"],
    "smtpd_tls_chain_files": ["/c.pem", "/k.pem, /c.pem", str(BUNDLE)],
    "smtpd_tls_security_level": ["none", "may", "encrypt", ""],
    "smtp_tls_security_level": ["none", "may", "encrypt", "dane", "secure"],
    "smtpd_use_tls": ["yes", "no"],
    "smtpd_tls_auth_only": ["yes", "no"],
    "smtpd_tls_loglevel": ["0", "1", "2"],
    "smtpd_tls_protocols": ["!SSLv2, !SSLv3", ">=TLSv1", ">=TLSv1.2", "TLSv1.2"],
    "tls_medium_cipherlist": ["HIGH", "ECDHE-RSA-AES128-GCM-SHA256"],
    "smtpd_banner": ["$myhostname ESMTP", "$$ ${mail_name:none}"],
}
_SPELLINGS = st.sampled_from(
    [
        "{0} = {1}\n",
        "{0}={1}\n",
        "{0}\t =\t {1}  \n",
        "{0} =\n  {1}\n",
        "{0} =\n# inside\n\n   # further in\n\t{1}\n# behind\n",
    ]
)
_SETTINGS = st.builds(
    lambda pair, spelling: spelling.format(*pair).encode(),
    st.sampled_from([(name, value) for name in _VALUES for value in _VALUES[name]]),
    _SPELLINGS,
)
_TEXTS = st.builds(
    lambda pieces, newline, ended: (
        b"".join(pieces).rstrip(b"" if ended else b"\n").replace(b"\n", newline)
    ),
    st.lists(_COMMENTS | _SETTINGS, max_size=12),
    st.sampled_from([b"\n", b"\n", b"\r\n"]),
    st.booleans(),
)


@settings(
    max_examples=20,
    suppress_health_check=[
        *settings.default.suppress_health_check,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(head=st.lists(_COMMENTS, max_size=2), rest=_TEXTS)
def test_whatever_main_cf_says_only_what_is_planned_changes(
    stopped_postfix, head, rest
):
    first = stopped_postfix.base / "main.cf.first"
    if not first.exists():
        shutil.copy(stopped_postfix.main_cf, first)
    newline = b"\r\n" if b"\r\n" in rest else b"\n"
    text = b"".join(head) + first.read_bytes()
    write(stopped_postfix, text.replace(b"\n", newline) + rest)
    before, said = stopped_postfix.main_cf.read_bytes(), explicit(stopped_postfix)

    planned = deploy(stopped_postfix)

    after = stopped_postfix.main_cf.read_bytes()
    assert_nothing_else_moved(planned, before, after)
    assert_shown_is_written(planned, before, after)
    assert explicit(stopped_postfix) == intended(planned, said)
