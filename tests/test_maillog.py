"""The mail log says why a service is dead, wherever it is."""

import os
from pathlib import Path

import pytest

from certbot_postfix.postfix.mail_log import MailLog
from tests.test_rules import configured

FATAL = "postfix/tlsmgr[14722]: fatal: tls_prng_exch_open: Permission denied"
THROTTLED = "postfix/master[1]: warning: /usr/lib/postfix/tlsmgr: bad command startup"
OFF = "postfix/smtpd[7]: warning: no entropy for TLS: disabling TLS support"
OTHERS = "postfix-out/tlsmgr[9]: fatal: another instance"
HARMLESS = "postfix/smtpd[7]: warning: hostname a.example does not resolve to address"


def line(words: str) -> str:
    return f"Nov 29 18:47:37 mx {words}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "maillog"
    found.write_text(line("postfix/tlsmgr[3]: fatal: long ago"))
    return found


def log(path: Path) -> MailLog:
    return MailLog(configured({"maillog_file": str(path), "syslog_name": "postfix"}))


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        pytest.param([THROTTLED, OFF, FATAL], FATAL, id="why tlsmgr ended"),
        pytest.param([HARMLESS, THROTTLED], THROTTLED, id="that tlsmgr ended"),
        pytest.param([HARMLESS, OFF], OFF, id="that TLS is off"),
        pytest.param([HARMLESS, OTHERS], "", id="nothing of this instance"),
    ],
)
def test_the_line_that_says_most_is_quoted(path, lines, cause):
    maillog = log(path)

    with path.open("a") as file:
        file.writelines(map(line, lines))

    assert maillog.cause() == cause


def test_a_log_that_was_rotated_is_read_from_its_start(path):
    path.write_text(line(HARMLESS) * 9)
    maillog = log(path)

    path.write_text(line(FATAL))

    assert maillog.cause() == FATAL


def test_control_characters_of_the_log_are_not_quoted(path):
    maillog = log(path)

    with path.open("a") as file:
        file.write(line(f"{FATAL} \x1b[2J\x07" + "x" * 1000))

    assert maillog.cause().isprintable()
    assert len(maillog.cause()) <= 300


def test_a_fifo_in_place_of_the_log_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "maillog")

    assert log(tmp_path / "maillog").cause() == ""


def test_without_a_file_the_journal_is_asked(tmp_path, monkeypatch):
    journal = tmp_path / "journalctl"
    journal.write_text(f"#!/bin/sh\necho '{line(FATAL).strip()}'\n")
    journal.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    assert log(tmp_path / "none").cause() == FATAL


def test_where_there_is_no_journal_either_no_cause_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert log(tmp_path / "none").cause() == ""


def test_beside_a_file_that_nobody_writes_any_more_the_journal_is_asked(
    path, tmp_path, monkeypatch
):
    journal = tmp_path / "journalctl"
    journal.write_text(f"#!/bin/sh\necho '{line(FATAL).strip()}'\n")
    journal.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    assert log(path).cause() == FATAL
