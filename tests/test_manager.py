"""What systemd has started, systemd starts again; the rest is for postfix(1)."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.manager import Manager

DEBIAN = "postfix@-.service"

# What `systemctl show --property=ExecStart --value` prints.
STARTS = (
    "{{ path={0} ; argv[]={0}{1} ; ignore_errors=no ; start_time=[n/a] ;"
    " stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }}"
)
POSTMULTI = STARTS.format("/usr/sbin/postmulti", " -i - -p start")
SSHD = STARTS.format("/usr/sbin/sshd", " -D $SSHD_OPTS")


@pytest.fixture
def systemctl(base: Path, monkeypatch) -> Callable[..., Callable[[], list[str]]]:
    """Put a systemctl on the PATH that knows one unit; return how to see its calls."""

    def stand_in(exec_start: str, restart: str = "") -> Callable[[], list[str]]:
        programs, calls = base / "bin", base / "calls"
        programs.mkdir()
        program = programs / "systemctl"
        # As of Debian's unit, systemd knows no main process.
        program.write_text(
            "#!/bin/sh\n"
            f'echo "$@" >> {calls}\n'
            'case "$1 $2" in\n'
            f"'show --property=ExecStart') echo '{exec_start}' ;;\n"
            "show*) echo 0 ;;\n"
            f"restart*) {restart or 'exit 1'} ;;\n"
            "esac\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin")
        return lambda: calls.read_text().splitlines() if calls.exists() else []

    return stand_in


@pytest.mark.parametrize(
    ("groups", "unit"),
    [
        pytest.param(
            f"0::/system.slice/system-postfix.slice/{DEBIAN}\n", DEBIAN, id="Debian's"
        ),
        pytest.param(
            "12:cpu,cpuacct:/system.slice\n"
            "1:name=systemd:/system.slice/postfix.service\n"
            "0::/system.slice/postfix.service\n",
            "postfix.service",
            id="several hierarchies",
        ),
        pytest.param(
            "0::/user.slice/user-0.slice/session-1.scope\n", None, id="a login"
        ),
        pytest.param("0::/system.slice/a.service/payload\n", None, id="a container"),
        pytest.param("1:name=systemd:/\n0::/\n", None, id="nobody"),
        pytest.param("", None, id="no control groups"),
    ],
)
def test_the_manager_is_the_service_in_whose_control_group_a_process_is(
    tmp_path, groups, unit
):
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(groups)

    assert Manager.of(7, tmp_path) == (Manager(unit) if unit else None)


def test_a_process_that_is_gone_has_no_manager():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()

    assert Manager.of(gone.pid) is None


@pytest.mark.parametrize(
    ("exec_start", "in_charge"),
    [
        pytest.param(POSTMULTI, True, id="postmulti, Debian's"),
        pytest.param(
            STARTS.format("/usr/sbin/postfix", " start"), True, id="postfix, Fedora's"
        ),
        pytest.param(
            STARTS.format("/usr/lib/postfix/sbin/master", " -w"), True, id="master"
        ),
        pytest.param(SSHD, False, id="ssh"),
        pytest.param(
            STARTS.format("/usr/bin/certbot", " -q renew"), False, id="certbot"
        ),
        pytest.param(
            STARTS.format("/usr/bin/start", " /usr/sbin/postfix"),
            False,
            id="a container with Postfix",
        ),
        pytest.param("", False, id="a unit that is not loaded"),
    ],
)
def test_only_a_service_that_starts_postfix_is_in_charge(
    systemctl, exec_start, in_charge
):
    calls = systemctl(exec_start)

    assert Manager(DEBIAN).in_charge() is in_charge
    assert calls() == [f"show --property=ExecStart --value {DEBIAN}"]


def test_where_there_is_no_systemctl_no_service_is_in_charge(base, monkeypatch):
    monkeypatch.setenv("PATH", str(base))

    assert not Manager(DEBIAN).in_charge()


# Postfix, as it is started anew


@pytest.fixture
def spy(base: Path) -> Callable[[], list[str]]:
    """Stand in front of postfix(1); return how to see with which verbs it was run."""
    verbs, program = base / "verbs", base / "postfix"
    program.write_text(f'#!/bin/sh\necho $3 >> {verbs}\nexec postfix "$@"\n')
    program.chmod(0o755)
    return lambda: verbs.read_text().splitlines() if verbs.exists() else []


@pytest.fixture
def grouped(postfix, base: Path, spy) -> Iterator[Callable[[str], Postfix]]:
    """Move the master process into a control group, by name only."""

    def group(path: str) -> Postfix:
        groups = base / "cgroup"
        groups.write_text(f"0::{path}\n")
        # It vanishes with the process.
        subprocess.run(
            ["mount", "--bind", groups, f"/proc/{postfix.master_pid}/cgroup"],
            check=True,
        )
        product = Postfix(postfix.config_dir, postfix=str(base / "postfix"))
        product.refuse_fatal_reload(product.read())
        return product

    yield group
    postfix.stop()


def by_systemd(postfix) -> str:
    """Return what the service of *postfix* does when it is restarted."""
    command = f"postfix -c {postfix.config_dir}"
    return f"if {command} status; then {command} stop; fi; {command} start"


@pytest.mark.postfix
@pytest.mark.parametrize(
    ("path", "exec_start", "verbs", "calls"),
    [
        pytest.param(
            f"/system.slice/system-postfix.slice/{DEBIAN}",
            POSTMULTI,
            ["check"],
            [f"show --property=ExecStart --value {DEBIAN}", f"restart {DEBIAN}"],
            id="systemd, whose service it is",
        ),
        pytest.param(
            "/system.slice/ssh.service",
            SSHD,
            ["check", "stop", "start"],
            ["show --property=ExecStart --value ssh.service"],
            id="postfix, in the service of another",
        ),
    ],
)
def test_postfix_is_stopped_and_started_by(
    postfix, grouped, spy, systemctl, path, exec_start, verbs, calls
):
    called = systemctl(exec_start, by_systemd(postfix))
    before, product = postfix.master_pid, grouped(path)

    product.restart()

    assert spy() == verbs
    assert list(dict.fromkeys(called())) == calls
    assert postfix.running
    assert postfix.master_pid != before


@pytest.mark.postfix
def test_a_dead_postfix_is_started_by_systemd_if_it_was_its_service(
    postfix, grouped, spy, systemctl
):
    called = systemctl(POSTMULTI, by_systemd(postfix))
    product = grouped(f"/system.slice/system-postfix.slice/{DEBIAN}")
    postfix.stop()

    product.start()

    assert spy() == []
    assert called()[-1] == f"restart {DEBIAN}"
    assert postfix.running
