"""Postfix's own programs are asked about an instance, and believed."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from certbot_postfix.errors import (
    Error,
    MisconfiguredError,
    MissingError,
    ProgramError,
    SignalError,
)
from certbot_postfix.postfix.configuration import Service
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.system import programs, signals
from tests.lab.machine import wait_until


@pytest.fixture
def postfix(stopped_postfix) -> Postfix:
    """The instance that does not run, as the plugin sees it."""
    return Postfix(stopped_postfix.config_dir)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def script(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in ["#!/bin/sh", *lines]))
    path.chmod(0o755)
    return str(path)


# read


def test_version_and_library_are_those_of_the_programs(stopped_postfix, postfix):
    configuration = postfix.read()

    release = stopped_postfix.postconf("-dh", "mail_version").strip()
    assert configuration.defaults["mail_version"] == release
    assert configuration.version == tuple(map(int, release.split(".")[:2]))
    assert configuration.tls_library.startswith("OpenSSL ")


def test_the_version_is_not_what_main_cf_pretends(stopped_postfix, postfix):
    stopped_postfix.set(mail_version="1.0")

    assert postfix.read().version >= (2, 11)


def test_what_main_cf_says_is_told_word_by_word_and_in_force(stopped_postfix, postfix):
    before = postfix.read()
    stopped_postfix.set(
        tls_home="/etc/ssl",
        smtpd_tls_cert_file="$tls_home/a.pem",
        smtpd_tls_key_file="${tls_home?/b.key}",
        smtpd_tls_eccert_file="",
    )

    configuration = postfix.read()

    explicit = {
        "tls_home": "/etc/ssl",
        "smtpd_tls_cert_file": "$tls_home/a.pem",
        "smtpd_tls_key_file": "${tls_home?/b.key}",
        "smtpd_tls_eccert_file": "",
    }
    assert configuration.explicit == {**before.explicit, **explicit}
    assert configuration.values["smtpd_tls_cert_file"] == "/etc/ssl/a.pem"
    assert configuration.values["smtpd_tls_key_file"] == "/b.key"
    assert configuration.values["smtpd_tls_chain_files"] == ""


def test_the_configuration_directory_is_not_a_setting_of_main_cf(postfix):
    configuration = postfix.read()

    assert "config_directory" not in configuration.explicit
    assert configuration.directory == postfix.directory


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\x1c"])
def test_a_line_ends_where_postfix_ends_it(stopped_postfix, postfix, character):
    text = f"smtpd_banner = a{character}smtpd_tls_loglevel = 4\n"
    append(stopped_postfix.main_cf, text)
    stopped_postfix.settle()

    configuration = postfix.read()

    assert configuration.value("smtpd_tls_loglevel") == "0"
    assert configuration.value("smtpd_banner") == f"a{character}smtpd_tls_loglevel = 4"


def test_what_is_not_utf_8_is_read(stopped_postfix, postfix):
    with stopped_postfix.main_cf.open("ab") as file:
        file.write(b"smtpd_banner = Gr\xfc\xdfe\n")
    stopped_postfix.settle()

    banner = postfix.read().value("smtpd_banner")

    assert banner.encode("utf-8", "surrogateescape") == b"Gr\xfc\xdfe"


def test_services_have_their_overrides_expanded_and_as_written(
    stopped_postfix, postfix
):
    stopped_postfix.master_cf.write_text(
        "smtp inet n - n - - smtpd -v -o smtpd_tls_auth_only=yes\n"
        "[::1]:465 inet n - n - - smtpd\n"
        "  -o { smtpd_banner = $myhostname says = }\n"
        "  -o smtpd_tls_wrappermode=yes\n"
        "  -o smtpd_tls_cert_file=\n"
        "smtp unix - - n - - smtp\n"
        "policy unix - n n - 0 spawn user=nobody argv=/bin/policy a/b\n"
    )
    stopped_postfix.settle()

    services = postfix.read().services

    wrapped = {"smtpd_tls_wrappermode": "yes", "smtpd_tls_cert_file": ""}
    assert services == (
        Service(
            "smtp",
            "inet",
            "smtpd",
            {"smtpd_tls_auth_only": "yes"},
            {"smtpd_tls_auth_only": "yes"},
            "n",
        ),
        Service(
            "[::1]:465",
            "inet",
            "smtpd",
            {"smtpd_banner": "mx.example.org says =", **wrapped},
            {"smtpd_banner": "$myhostname says =", **wrapped},
            "n",
        ),
        Service("smtp", "unix", "smtp", {}, {}, "n"),
        Service("policy", "unix", "spawn", {}, {}, "n"),
    )


def test_of_several_entries_for_one_service_the_last_counts(stopped_postfix, postfix):
    stopped_postfix.master_cf.write_text(
        "filter unix - n n - 10 pipe flags=R user=nobody argv=/bin/a\n"
        "25 inet n - y - - smtpd -o smtpd_tls_auth_only=yes -o smtpd_banner=a\n"
        "filter unix - n n - 10 pipe flags=R user=nobody argv=/bin/a\n"
        "25 inet n - n - - postscreen -vo smtpd_banner=$mail_name -o {\n"
        "  smtpd_tls_cert_file = -o smtpd_tls_auth_only=no }\n"
        "  -o smtpd_tls_loglevel=2 -osmtpd_tls_key_file=/b\n"
    )
    stopped_postfix.settle()

    configuration = postfix.read()

    overrides = {
        "smtpd_banner": "Postfix",
        "smtpd_tls_cert_file": "-o smtpd_tls_auth_only=no",
        "smtpd_tls_loglevel": "2",
        "smtpd_tls_key_file": "/b",
    }
    written = {**overrides, "smtpd_banner": "$mail_name"}
    services = (
        Service("filter", "unix", "pipe", {}, {}, "n"),
        Service("25", "inet", "postscreen", overrides, written, "n"),
    )
    assert configuration.services == services
    assert postfix.read_again(configuration).services == services


# A configuration that Postfix cannot read


def test_a_broken_main_cf_is_told_with_file_and_line(stopped_postfix, postfix):
    stopped_postfix.main_cf.write_text("myhostname = mx.example.org\nno equals sign\n")
    stopped_postfix.settle()

    with pytest.raises(MisconfiguredError) as caught:
        postfix.read()

    assert (
        f"fatal: {stopped_postfix.main_cf}, line 2: missing '=' after attribute name:"
        ' "no equals sign"'
    ) in caught.value.message
    assert "certbot rollback" in caught.value.hint


def test_a_broken_master_cf_is_told_with_file_and_line(stopped_postfix, postfix):
    stopped_postfix.master_cf.write_text("# services\nsmtp inet n\n")
    stopped_postfix.settle()

    with pytest.raises(
        MisconfiguredError,
        match=rf"fatal: file {stopped_postfix.master_cf}: line 2: bad field count",
    ):
        postfix.read()


def test_a_macro_without_end_is_told(stopped_postfix, postfix):
    append(stopped_postfix.main_cf, "smtpd_banner = ${unended\n")
    stopped_postfix.settle()

    with pytest.raises(MisconfiguredError, match="fatal: macro processing error"):
        postfix.read()


def test_a_directory_without_main_cf_is_told(tmp_path):
    with pytest.raises(MisconfiguredError, match=rf"open {tmp_path}/main\.cf: No such"):
        Postfix(tmp_path).read()


# A Postfix that will not do


def test_a_program_that_is_missing_is_named(stopped_postfix):
    postfix = Postfix(stopped_postfix.config_dir, postconf="/nowhere/postconf")

    with pytest.raises(Error, match="the program /nowhere/postconf was not found"):
        postfix.read()


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [("#!/bin/sh\n", 0o644, "permission denied"), ("\0", 0o755, "exec format error")],
)
def test_a_program_that_cannot_be_executed_is_told_and_no_fault_of_main_cf(
    stopped_postfix, tmp_path, text, mode, reason
):
    program = tmp_path / "postconf"
    program.write_text(text)
    program.chmod(mode)
    postfix = Postfix(stopped_postfix.config_dir, postconf=str(program))

    with pytest.raises(
        Error, match=f"{program} cannot be executed: {reason}"
    ) as caught:
        postfix.read()

    assert "rollback" not in caught.value.hint


def test_a_postfix_that_is_too_old_is_refused_with_its_version(stopped_postfix, base):
    old = script(base / "postconf", 'echo "mail_version = 2.10.1"')

    with pytest.raises(MissingError, match=r"Postfix 2\.10\.1 is too old: 2\.11"):
        Postfix(stopped_postfix.config_dir, postconf=old).read()


def test_a_postfix_without_tls_is_refused(stopped_postfix, base):
    plain = script(
        base / "postconf", 'case "$3" in -T) ;; *) exec postconf "$@";; esac'
    )

    with pytest.raises(MissingError, match="built without TLS"):
        Postfix(stopped_postfix.config_dir, postconf=plain).read()


# edit, comment_out, check


def test_parameters_are_set_where_they_stand_or_at_the_end(stopped_postfix, postfix):
    stopped_postfix.main_cf.write_text("a = 1\nb = 2\n# the end\n")

    postfix.edit({"a": "$$ $b", "c": "4"})

    assert stopped_postfix.main_cf.read_text() == (
        "a = $$ $b\nb = 2\n# the end\nc = 4\n"
    )


def test_parameters_are_commented_out_with_all_their_lines(stopped_postfix, postfix):
    stopped_postfix.main_cf.write_text("a = 1\n  2\nb = 3\n")

    postfix.comment_out(["a"])

    assert stopped_postfix.main_cf.read_text() == "#a = 1\n#  2\nb = 3\n"


def test_an_edit_that_fails_says_the_command_and_why(tmp_path):
    with pytest.raises(ProgramError, match=r"postconf -c .* -e 'a = 1' failed: fatal:"):
        Postfix(tmp_path).edit({"a": "1"})


def test_a_sound_configuration_passes_the_check(postfix):
    postfix.check()


def test_a_configuration_that_fails_the_check_is_told(stopped_postfix, postfix):
    stopped_postfix.set(daemon_directory="/nowhere")

    with pytest.raises(MisconfiguredError, match="`postfix check` fails for") as caught:
        postfix.check()

    assert caught.value.hint == f"run: postfix -c {postfix.directory} check"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("myhostname =", "bad string length 0 < 1: myhostname ="),
        (
            "message_size_limit = 10240000 # 10 MB",
            "bad numerical configuration: message_size_limit = 10240000 # 10 MB",
        ),
        ("myhostname = @HOST NAME@", "bad parameter value: @HOST NAME@"),
        ("inet_protocols = ipv5", 'unknown inet_protocols value "ipv5"'),
    ],
)
def test_why_the_check_fails_is_told_without_a_terminal(
    stopped_postfix, postfix, line, reason
):
    append(stopped_postfix.main_cf, f"not_used = 1\n{line}\n")
    stopped_postfix.settle()

    with pytest.raises(MisconfiguredError) as caught:
        postfix.check()

    assert reason in caught.value.message
    assert "not_used" not in caught.value.message


def test_a_parameter_that_nobody_uses_is_no_reason(stopped_postfix, base):
    """postconf(1) warns of it, whatever the reason is."""
    program = script(
        base / "postfix",
        "echo 'postconf: warning: main.cf: unused parameter: not_used=1' >&2",
        "echo 'postfix: fatal: bad parameter value: @HOST@' >&2",
        "exit 1",
    )
    postfix = Postfix(stopped_postfix.config_dir, postfix=program)

    with pytest.raises(MisconfiguredError) as caught:
        postfix.check()

    assert caught.value.message.endswith(
        ": postfix: fatal: bad parameter value: @HOST@"
    )


def test_why_a_reload_fails_is_told_without_a_terminal(stopped_postfix, postfix):
    append(stopped_postfix.main_cf, "myhostname =\n")
    stopped_postfix.settle()

    with pytest.raises(ProgramError, match="length 0 < 1: myhostname"):
        postfix.reload()


def test_a_postfix_that_was_never_started_does_not_run(postfix):
    assert not postfix.running()


def test_a_reload_that_fails_is_told_with_the_place_to_look(postfix):
    with pytest.raises(ProgramError, match="postfix reload failed") as caught:
        postfix.reload()

    assert "mail log" in caught.value.hint


# The directory


def test_the_directory_is_what_postconf_says(base):
    asked = '[ "${*#*-dh }" = config_directory ] && echo /p'
    told = script(base / "postconf", asked)

    assert Postfix.find(None, postconf=told, postfix="postfix").directory == Path("/p")


def test_the_directory_is_found_even_if_its_master_cf_is_broken(stopped_postfix, base):
    append(stopped_postfix.master_cf, "smtp inet n\n")
    where = stopped_postfix.config_dir
    # A postconf that was built for this directory.
    built = script(
        base / "postconf",
        f'if [ "$1" != -c ]; then exec postconf -c {where} "$@"; fi',
        'told=$(postconf "$@") || exit 1',
        f'if [ "$4" = config_directory ]; then echo {where}; else echo "$told"; fi',
    )

    found = Postfix.find(None, postconf=built, postfix="postfix")

    assert found.directory == where


def test_a_relative_directory_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert Postfix.find("etc", postfix="postfix").directory == tmp_path / "etc"


def test_main_cf_is_the_file_behind_all_links(tmp_path):
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "main.cf").symlink_to("link")

    assert Postfix(tmp_path).main_cf == target


# The programs' surroundings

READ = """
import sys
from pathlib import Path
from certbot_postfix.postfix.instance import Postfix

postfix = Postfix(Path(sys.argv[1]), postconf="/usr/sbin/postconf")
sys.stdout.buffer.write(postfix.read().value("smtpd_banner").encode(errors="replace"))
"""


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="none"),
        pytest.param({"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}, id="German"),
        pytest.param({"MAIL_CONFIG": "/nowhere"}, id="Postfix's own"),
    ],
)
def test_the_environment_does_not_matter(stopped_postfix, environment):
    append(stopped_postfix.main_cf, "smtpd_banner = grüß Gott\n")
    stopped_postfix.settle()

    done = subprocess.run(
        [sys.executable, "-c", READ, str(stopped_postfix.config_dir)],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
        env=environment,
        start_new_session=True,  # and there is no terminal
    )

    assert done.stderr == b""
    assert done.stdout.decode() == "grüß Gott"


EDIT = """
import sys
from pathlib import Path
from certbot_postfix.postfix.instance import Postfix

Postfix(Path(sys.argv[1]), postconf=sys.argv[2]).edit({"a": "1"})
"""


def test_no_program_has_a_terminal_or_more_than_it_needs(stopped_postfix, base):
    spy = script(
        base / "postconf",
        f"env > {base}/env",
        f"readlink /proc/self/fd/0 > {base}/stdin",
        f"(: < /dev/tty) 2> {base}/tty || :",
    )
    on_a_terminal = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])"]
    arguments = ["-c", EDIT, str(stopped_postfix.config_dir), spy]

    subprocess.run(
        [*on_a_terminal, sys.executable, *arguments],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
    )

    names = {line.partition("=")[0] for line in (base / "env").read_text().splitlines()}
    of_the_shell = {"PWD", "SHLVL", "_", "OLDPWD"}
    assert names - of_the_shell <= {"PATH", "LD_LIBRARY_PATH", "TZ", "LC_ALL"}
    assert (base / "stdin").read_text() == "/dev/null\n"
    assert "No such device" in (base / "tty").read_text()


def test_a_program_that_does_not_end_when_we_are_interrupted_is_interrupted_too(base):
    begun, tidied = base / "begun", base / "tidied"
    # A shell cannot trap what it was started to ignore.
    program = base / "program"
    program.write_text(
        f"#!{sys.executable}\nimport signal, sys\n"
        "def tidy(*_):\n"
        f"    open({str(tidied)!r}, 'w')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGINT, tidy)\n"
        f"open({str(begun)!r}, 'w')\n"
        "while True: signal.pause()\n"
    )
    program.chmod(0o755)

    def interrupt() -> None:
        wait_until(begun.exists, "the program runs")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(SignalError), signals.interruptible():
        programs.run_to_its_end(
            [str(program)], timeout=60, environment={}, patience=0.2
        )

    assert tidied.exists()


def test_what_a_snap_put_into_the_environment_is_taken_out(
    stopped_postfix, base, monkeypatch
):
    monkeypatch.setenv("SNAP", "/snap/certbot/1")
    monkeypatch.setenv("CERTBOT_SNAPPED", "True")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/snap/certbot/1/lib:/mine")
    spy = script(base / "postconf", f"echo $LD_LIBRARY_PATH > {base}/libraries")

    Postfix(stopped_postfix.config_dir, postconf=spy).edit({"a": "1"})

    assert "/snap" not in (base / "libraries").read_text()


def test_reading_starts_no_program_twice_for_the_same_answer(stopped_postfix, base):
    spy = script(base / "postconf", f'echo "$@" >> {base}/calls', 'exec postconf "$@"')

    Postfix(stopped_postfix.config_dir, postconf=spy).read()

    calls = Counter((base / "calls").read_text().splitlines())
    asked = {call.partition(f"-c {stopped_postfix.config_dir} ")[2] for call in calls}
    assert set(calls.values()) == {1}
    assert asked == {"-d", "-n", "-x", "-M", "-P", "-Px", "-T run-version"}
