"""What once broke a reader of foreign input does so no more; see `tests.fuzz`."""

import pytest

from certbot_postfix.inbound import sni
from tests.fuzz.readers import SEEDS, TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_no_foreign_exception_leaves_the_reader_of(target):
    seeds = sorted((SEEDS / target).iterdir())

    for seed in seeds:
        TARGETS[target](seed.read_bytes())

    assert seeds


def test_a_line_without_a_name_does_not_hide_the_others_of_an_sni_map():
    found = sni.entries(b",\nmx.example.org /a.pem\n")

    assert found == {"mx.example.org": ("/a.pem",)}
