"""Errors are sentences, wherever certbot shows them."""

import logging
import traceback

import pytest

from certbot_postfix.errors import Error, MisconfiguredError, named_logger, printable


def test_the_hint_stands_apart():
    assert str(Error("the disk is full", hint="buy one")) == (
        "the disk is full\nHint: buy one"
    )


def test_an_error_without_a_hint_is_its_message():
    assert str(Error("the disk is full")) == "the disk is full"


def test_what_certbot_shows_by_its_repr_is_as_readable():
    error = MisconfiguredError("main.cf: 'it's broken'", hint="mend it")

    assert repr(error) == "main.cf: 'it's broken'\nHint: mend it"


def test_a_message_about_a_name_that_is_not_utf_8_can_be_printed():
    error = Error("could not read /m\udcfcller.pem")

    assert str(error) == "could not read /m\\xfcller.pem"
    assert printable("grüß") == "grüß"


def test_half_a_character_such_as_json_has_can_be_printed():
    assert str(Error("a\ud800b", hint="\udfff")) == "a\\ud800b\nHint: \\udfff"


HOSTILE = "\x1b[2J\x07 \x9b31m \u202egro \u200b\r"
HARMLESS = "\\x1b[2J\\x07 \\x9b31m \\u202egro \\u200b\\r"


def test_what_a_terminal_would_obey_is_escaped_and_lines_stay():
    assert printable(f"a\n\tb {HOSTILE}") == f"a\n\tb {HARMLESS}"


def test_neither_message_nor_hint_commands_a_terminal_whoever_sets_them():
    error = Error(HOSTILE, hint=HOSTILE)
    error.message = f"more: {HOSTILE}"

    assert str(error) == f"more: {HARMLESS}\nHint: {HARMLESS}"


def test_nothing_that_is_logged_commands_a_terminal(caplog: pytest.LogCaptureFixture):
    logger = named_logger("certbot_postfix.hostile")

    with caplog.at_level(logging.DEBUG):
        logger.debug("100%% of %s", HOSTILE, exc_info=ValueError(HOSTILE))

    assert caplog.messages == [f"100% of {HARMLESS}"]
    assert "\x1b" not in caplog.text
    assert f"ValueError: {HARMLESS}" in caplog.text


def foreign() -> None:
    """Raise as a library does, with words of a stranger."""
    raise ValueError(HOSTILE)


def raised_from_it() -> None:
    try:
        foreign()
    except ValueError as error:
        raise Error("told") from error


def raised_beside_it() -> None:
    try:
        foreign()
    except ValueError:
        raise Error("told")  # noqa: B904


def raised_from_one_of_ours() -> None:
    try:
        raised_beside_it()
    except Error as error:
        raise MisconfiguredError("told") from error


@pytest.mark.parametrize(
    "fail", [raised_from_it, raised_beside_it, raised_from_one_of_ours]
)
def test_what_certbot_logs_of_a_cause_commands_no_terminal_and_is_told(fail):
    with pytest.raises(Error) as caught:
        fail()
    logged = "".join(traceback.format_exception(caught.value))

    assert f"ValueError: {HARMLESS}" in logged
    assert printable(logged) == logged
    assert "in foreign" in logged
