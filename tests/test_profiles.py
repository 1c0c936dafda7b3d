"""The options, as certbot stores them."""

import argparse
from pathlib import Path

import pytest

from certbot_postfix import profiles


def parse(*args: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    profiles.declare(
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
