"""The options, as certbot stores them."""

import argparse
from pathlib import Path

import pytest

from certbot_postfix import options


def parse(*args: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.declare(
        lambda name, **settings: parser.add_argument(f"--{name}", **settings)
    )
    return parser.parse_args(args)


def test_a_relative_directory_is_remembered_as_an_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert Path(parse("--config-dir", "etc").config_dir) == tmp_path / "etc"


def test_without_a_directory_none_is_remembered():
    assert parse().config_dir is None


@pytest.mark.parametrize("text", ["-1", "3601", "nan", "soon", ""])
def test_a_time_that_is_none_is_refused(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("--verify-timeout", text)

    assert f"{text} is not a number from 0 to 3600" in capsys.readouterr().err


@pytest.mark.parametrize("when", ["auto", "never"])
def test_names_are_served_when_it_is_said(when):
    assert parse("--sni", when).sni == when


def test_names_are_served_unless_forbidden():
    assert parse().sni == "auto"


def test_no_other_word_says_when_names_are_served(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("--sni", "always")

    assert "invalid choice: 'always'" in capsys.readouterr().err


def advised(*args: str) -> list[str]:
    """Return what is advised to who gave *args*."""
    values = vars(parse(*args))
    return options.given(
        lambda name: f"postfix-{name}", lambda name: values[name.replace("-", "_")]
    )


def test_what_was_not_given_is_not_advised():
    assert advised() == []
    assert advised("--sni", "auto", "--verify-timeout", "3") == []


def test_what_was_given_for_good_is_advised():
    given = ["--config-dir", "/etc/postfix-2", "--tls-profile", "certificate"]
    given += ["--client-level", "keep", "--sni", "never"]

    assert advised(*given) == [
        word.replace("--", "--postfix-") if word.startswith("--") else word
        for word in given
    ]
