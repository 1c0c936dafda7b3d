"""The MTA-STS policy below a webroot is replaced only if it is what was shown."""

from pathlib import Path

import pytest

from certbot_postfix.errors import Error
from certbot_postfix.formats.mta_sts import Published
from certbot_postfix.formats.policy import Mode
from certbot_postfix.publish import mta_sts
from certbot_postfix.publish.mta_sts import Proposal
from certbot_postfix.system.dns import Resolver

MX = "mx.example.org"
OTHERS = b"version: STSv1\nmode: enforce\nmx: mx.example.net\nmax_age: 1000000\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / ".well-known"
    directory.mkdir()
    return directory / "mta-sts.txt"


def proposal(webroot: Path) -> Proposal:
    now = mta_sts.present(webroot)
    policy = mta_sts.wanted(now, None, [MX])
    return Proposal("example.org", webroot, now, policy, (MX,), Resolver())


def test_a_first_policy_is_in_testing_mode_and_is_read_again(tmp_path):
    first = proposal(tmp_path)

    first.write()

    assert first.policy.mode is Mode.TESTING
    assert mta_sts.present(tmp_path).policy == first.policy
    assert mta_sts.present(tmp_path).ours


def test_what_is_no_policy_is_somebody_elses(tmp_path, path):
    path.write_text("<html>not found</html>")

    found = mta_sts.present(tmp_path)

    assert (found.policy, found.ours) == (None, False)


def test_a_webroot_that_is_no_directory_is_refused(tmp_path):
    with pytest.raises(Error, match=f"^{tmp_path}/none is not a directory"):
        mta_sts.present(tmp_path / "none")


def test_a_policy_that_is_a_link_is_not_replaced(tmp_path, path):
    path.symlink_to("elsewhere.txt")

    with pytest.raises(Error, match="is a symbolic link, and is not replaced") as error:
        mta_sts.present(tmp_path)

    assert error.value.hint == "use the directory that contains the file"


def test_what_was_written_meanwhile_is_not_overwritten(tmp_path, path):
    shown = proposal(tmp_path)
    path.write_bytes(OTHERS)

    with pytest.raises(Error, match="was modified while this command was running"):
        shown.write()

    assert path.read_bytes() == OTHERS


def test_a_domain_that_accepts_no_mail_has_no_policy_but_one_that_ends_it(tmp_path):
    now = mta_sts.present(tmp_path)

    with pytest.raises(Error, match="accepts no mail and needs no policy"):
        mta_sts.wanted(now, None, [])

    ended = mta_sts.wanted(now, Mode.NONE, [])
    assert (ended.mode, ended.mxs) == (Mode.NONE, ())


def test_the_mode_and_the_age_of_a_policy_stay_unless_another_is_wanted(tmp_path, path):
    path.write_bytes(OTHERS)
    now = mta_sts.present(tmp_path)

    assert mta_sts.wanted(now, None, [MX]) == Published(Mode.ENFORCE, (MX,), 1000000)
    assert mta_sts.wanted(now, Mode.TESTING, [MX]).max_age != 1000000
