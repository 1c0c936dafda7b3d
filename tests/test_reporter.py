"""On a terminal, each step is a line that appears when it begins, and has its end."""

import io
import logging
import threading

import pytest

from certbot_postfix.errors import Error, named_logger
from certbot_postfix.system.reporter import Reporter


class Terminal(io.StringIO):
    """A terminal, and an event for each time that something appears on it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Condition()

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        with self.written:
            self.written.notify_all()

    def await_text(self, text: str) -> None:
        with self.written:
            assert self.written.wait_for(lambda: text in self.getvalue(), timeout=30)


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def reports(terminal) -> Reporter:
    return Reporter.on(terminal, lambda text: print(text, file=terminal))


def test_a_step_has_its_line_from_the_beginning_to_the_end(terminal, reports):
    with reports.step("Reloading Postfix"):
        assert terminal.getvalue() == "Reloading Postfix ..."

    assert terminal.getvalue() == "Reloading Postfix ... done\n"


def test_a_step_that_fails_says_so(terminal, reports):
    with pytest.raises(Error), reports.step("Verifying 3 listeners"):
        raise Error("no")

    assert terminal.getvalue() == "Verifying 3 listeners ... failed\n"


def test_a_message_begins_a_line_of_its_own(terminal, reports):
    handler = logging.StreamHandler(terminal)
    package = logging.getLogger("certbot_postfix")
    package.addHandler(handler)
    try:
        with reports.step("Verifying"):
            named_logger("certbot_postfix.x").warning("something else")
            named_logger("certbot_postfix.x").warning("and more")
    finally:
        package.removeHandler(handler)

    assert terminal.getvalue() == (
        "Verifying ...\nsomething else\nand more\nVerifying ... done\n"
    )


def test_a_long_step_shows_signs_of_life(terminal):
    reports = Reporter(print, terminal, pause=0.01)

    with reports.step("Verifying"):
        terminal.await_text("Verifying .....")

    assert terminal.getvalue().rstrip(" done\n").strip(".") == "Verifying "


def test_a_step_that_is_usually_short_is_shown_if_it_is_not(terminal, reports):
    with reports.step("Waiting", after=30):
        pass
    assert terminal.getvalue() == ""

    with reports.step("Waiting", after=0.01):
        terminal.await_text("Waiting ...")
    assert terminal.getvalue() == "Waiting ... done\n"


def test_without_a_terminal_there_are_results_in_one_line_and_no_steps(capsys):
    said: list[str] = []
    reports = Reporter.on(io.StringIO(), said.append)

    with reports.step("Verifying"):
        reports.result("all is well", ["all:", "  well"])
        reports.details("more")

    assert said == ["all is well"]
