"""Errors are sentences, wherever certbot shows them."""

from certbot_postfix.errors import Error, MisconfiguredError, printable


def test_the_hint_stands_apart():
    assert str(Error("the disk is full", hint="buy one")) == (
        "the disk is full\nWhat to do: buy one"
    )


def test_an_error_without_a_hint_is_its_message():
    assert str(Error("the disk is full")) == "the disk is full"


def test_what_certbot_shows_by_its_repr_is_as_readable():
    error = MisconfiguredError("main.cf: 'it's broken'", hint="mend it")

    assert repr(error) == "main.cf: 'it's broken'\nWhat to do: mend it"


def test_a_message_about_a_name_that_is_not_utf_8_can_be_printed():
    error = Error("could not read /m\udcfcller.pem")

    assert str(error) == "could not read /m\\xfcller.pem"
    assert printable("grüß") == "grüß"
