"""Renewals that a certbot without this plugin has taken from Postfix are found."""

import json
import sys
from pathlib import Path

import certbot
import pytest

from certbot_postfix.dane.staged import Kind
from certbot_postfix.formats.caa import Issuance
from certbot_postfix.inbound import renewal_settings, schedules
from certbot_postfix.inbound.renewal_settings import RenewalReader
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.status import report
from certbot_postfix.status.collect import collect_facts
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.tls import certificates
from tests.lab import NEWEST, OLDEST, Authority, Certbot, install_lineage
from tests.lab.certbot import without_plugin
from tests.lab.clients import everywhere
from tests.lab.instances import obstacle
from tests.lab.scene import NAME, STANDALONE, Scene, newest, options, succeeded, told

LOST = "renewal-not-deployed"
RENEW = "certbot -q renew"


def findings(scene: Scene) -> dict[str, str]:
    """Return the hint of each finding, by code."""
    report = json.loads(scene.command("status", "--json").stdout)
    return {finding["code"]: finding["hint"] for finding in report["findings"]}


@pytest.mark.postfix
def test_a_certbot_without_the_plugin_takes_renewals_and_status_finds_it(
    postfix, base, pebble, executable, authority
):
    renewer = OLDEST if executable == NEWEST else NEWEST
    if not renewer.exists():
        pytest.skip("there is no .venv-oldest: run make test")
    scene = Scene(
        postfix, Certbot(base, executable=executable, pebble=pebble), authority
    )
    succeeded(scene.certbot("run", *STANDALONE, "-d", NAME, *options(postfix)))
    first = newest(scene, NAME)
    settings = scene.certbot.config_dir / "renewal" / f"{NAME}.conf"
    # A host with one Postfix has no such options, over which certbot 2.1 stumbles.
    lines = settings.read_text().splitlines(keepends=True)
    settings.write_text("".join(each for each in lines if "postfix_" not in each))
    assert findings(scene) == {}

    other = Certbot(base, executable=without_plugin(renewer, base), pebble=pebble)
    succeeded(other("renew", "--force-renewal"))

    assert "installer" not in settings.read_text()  # this is what was lost
    lost = findings(scene)
    assert lost.keys() == {"stale", LOST}
    assert f"certbot-postfix deploy --cert-name {NAME}" in lost["stale"]
    assert lost[LOST] in lost["stale"]
    done = scene.command("deploy", "--cert-name", NAME)
    assert done.returncode == 3
    assert lost[LOST] in told(done)
    assert everywhere(postfix) == newest(scene, NAME) != first
    assert findings(scene) == {LOST: lost[LOST]}

    follow(lost[LOST], settings, scene)

    assert findings(scene) == {}
    second = newest(scene, NAME)
    succeeded(scene.certbot("renew", "--force-renewal"))
    assert everywhere(postfix) == newest(scene, NAME) != second


def follow(hint: str, settings: Path, scene: Scene) -> None:
    """Do what the *hint* says, word by word."""
    if hint.startswith("certbot "):
        succeeded(scene.certbot(*hint.split()[1:]))
    else:
        assert f"below [renewalparams] in {settings}" in hint
        head = "[renewalparams]\n"
        lines = "".join(f"{line}\n" for line in hint.split("`")[1::2])
        settings.write_text(settings.read_text().replace(head, head + lines))


# Which renewals are deployed


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def renew_hook(config_dir: Path, script: Path) -> None:
    add(config_dir, "renew_hook = certbot-postfix deploy")


def renew_hook_by_a_script(config_dir: Path, script: Path) -> None:
    add(config_dir, f"renew_hook = '{script} --quietly'")


def post_hook(config_dir: Path, script: Path) -> None:
    add(config_dir, f"post_hook = certbot-postfix deploy --cert-name {NAME}")


def hook_for_all(config_dir: Path, script: Path) -> None:
    write(config_dir / "renewal-hooks/deploy/50-postfix", script.read_text(), 0o755)


def hook_in_cli_ini(config_dir: Path, script: Path) -> None:
    write(config_dir / "cli.ini", "deploy-hook = /opt/bin/certbot-postfix deploy\n")


def installer_in_cli_ini(config_dir: Path, script: Path) -> None:
    write(config_dir / "cli.ini", "installer = postfix\n")


def installer(config_dir: Path, script: Path) -> None:
    add(config_dir, "installer = postfix")


def nothing(config_dir: Path, script: Path) -> None:
    pass


def another_hook(config_dir: Path, script: Path) -> None:
    add(config_dir, "renew_hook = systemctl reload postfix")


def hook_that_certbot_does_not_run(config_dir: Path, script: Path) -> None:
    write(config_dir / "renewal-hooks/deploy/50-postfix", script.read_text(), 0o644)


def hook_that_is_no_hook_any_more(config_dir: Path, script: Path) -> None:
    hook = "#!/bin/sh\n# certbot-postfix deploy\nexit 0\n"
    write(config_dir / "renewal-hooks/deploy/50-postfix", hook, 0o755)


def hook_that_cannot_be_looked_at(config_dir: Path, script: Path) -> None:
    hooks = config_dir / "renewal-hooks/deploy"
    hooks.mkdir(parents=True)
    (hooks / "50-postfix").symlink_to("x" * 300)  # longer than a name can be


def hook_with_an_apostrophe(config_dir: Path, script: Path) -> None:
    add(config_dir, "renew_hook = certbot-postfix deploy  # it's ours")


def add(config_dir: Path, line: str) -> None:
    path = config_dir / "renewal" / f"{NAME}.conf"
    path.write_text(f"{path.read_text()}{line}\n")


@pytest.mark.parametrize(
    ("arrange", "deployed"),
    [
        *((each, True) for each in (renew_hook, renew_hook_by_a_script, post_hook)),
        *((each, True) for each in (hook_for_all, hook_in_cli_ini)),
        *((each, True) for each in (installer_in_cli_ini, installer)),
        *((each, False) for each in (nothing, another_hook)),
        (hook_that_certbot_does_not_run, False),
        (hook_that_is_no_hook_any_more, False),
        (hook_that_cannot_be_looked_at, False),
        (hook_with_an_apostrophe, True),
    ],
)
def test_a_renewal_is_deployed_by_the_installer_or_a_hook(
    tmp_path: Path, authority: Authority, arrange, deployed: bool
):
    install_lineage(tmp_path, NAME, authority.issue(NAME), installer=None)
    path = tmp_path / "renewal" / f"{NAME}.conf"
    path.write_text(path.read_text().replace("installer = None\n", ""))
    write(tmp_path / "hook", "#!/bin/sh\nexec certbot-postfix \\\n  deploy\n", 0o755)

    arrange(tmp_path, tmp_path / "hook")

    settings = RenewalReader(tmp_path).read(NAME)
    assert settings
    assert settings.deployed is deployed


@pytest.mark.parametrize("kind", ["missing", "directory", "too large"])
def test_of_settings_that_cannot_be_read_nothing_is_claimed(
    tmp_path: Path, authority: Authority, kind: str
):
    path = tmp_path / "renewal" / f"{NAME}.conf"
    path.parent.mkdir()
    if kind == "directory":
        path.mkdir()
    elif kind == "too large":
        path.write_text("installer = postfix\n" * 10_000)
    reader = RenewalReader(tmp_path)
    leaf = certificates.leaf(authority.issue(NAME).fullchain_pem)

    assert reader.read(NAME) is None
    assert reader.issuance(NAME) == Issuance()
    assert reader.kind(NAME, leaf) == Kind("ecdsa", 2048, "secp256r1")  # that of *leaf*
    assert renewal_settings.names_installer(path)  # so no later lineage is waited for
    assert list(schedules.obstacles(tmp_path, NAME, [], "postfix")) == []


def test_before_2_3_certbot_has_settings_edited(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(certbot, "__version__", "2.1.0")
    options = ["--postfix-ctl", "/opt/postfix"]

    error = renewal_settings.missing(NAME, tmp_path, options)
    keep = renewal_settings.keep_key(NAME, tmp_path)

    put = f"set {{}} below [renewalparams] in {tmp_path}"
    lines = "`installer = postfix` and `postfix_ctl = /opt/postfix`"
    assert error.hint == put.format(lines)
    assert keep == put.format("`reuse_key = True`")


# What renews by itself


def machine(root: Path, *, systemd: bool) -> Path:
    """Make the files of a machine with Debian's certbot, and with the snap."""
    write(root / "usr/bin/certbot", "#!/opt/other/bin/python3\n")
    (root / "opt/other/lib/python3/dist-packages/certbot").mkdir(parents=True)
    write(
        root / "etc/cron.d/certbot",
        "# certbot renew\nPATH=/usr/bin\n0 */12 * * * root test -x /usr/bin/certbot"
        f" -a \\! -d /run/systemd/system && {RENEW} --no-random-sleep-on-renew\n",
    )
    units = root / "lib/systemd/system"
    write(units / "certbot.service", f"[Service]\nExecStart=/usr/bin/{RENEW}\n")
    snap = "ExecStart=/usr/bin/snap run --timer=00:00~24:00/2 certbot.renew\n"
    write(root / "etc/systemd/system/snap.certbot.renew.service", snap)
    wants = root / "etc/systemd/system/timers.target.wants"
    wants.mkdir()
    for name in ("certbot.timer", "snap.certbot.renew.timer", "apt-daily.timer"):
        (wants / name).symlink_to(f"/lib/systemd/system/{name}")
    if systemd:
        (root / "run/systemd/system").mkdir(parents=True)
    return root / "etc/letsencrypt"


def foreign(config_dir: Path, root: Path) -> list[str]:
    """Return where a certbot without this plugin renews."""
    return [
        schedule.place
        for schedule in schedules.read(config_dir, root)
        if schedule.problem
    ]


@pytest.mark.parametrize(
    ("systemd", "places", "end"),
    [
        (
            True,
            ["certbot.timer", "snap.certbot.renew.timer"],
            "systemctl disable --now certbot.timer",
        ),
        (
            False,
            ["/etc/cron.d/certbot"],
            "remove the entry for certbot in /etc/cron.d/certbot",
        ),
    ],
)
def test_what_renews_by_itself_is_known_and_how_to_end_it(
    tmp_path, systemd, places, end
):
    config_dir = machine(tmp_path, systemd=systemd)

    first = schedules.read(config_dir, tmp_path)[0]

    assert foreign(config_dir, tmp_path) == places
    assert first.problem
    assert first.problem.hint.startswith(f"{end}, and run `{sys.prefix}/bin/certbot ")


def test_what_another_program_does_in_the_name_of_certbot_is_not_known(tmp_path):
    config_dir = machine(tmp_path, systemd=False)
    write(tmp_path / "usr/bin/certbot", "#!/bin/sh\nexec true\n")

    assert schedules.read(config_dir, tmp_path) == ()


def test_a_timer_that_is_masked_or_another_directory_is_nobody_s(tmp_path):
    config_dir = machine(tmp_path, systemd=True)
    assert foreign(tmp_path / "srv/letsencrypt", tmp_path) == []

    (tmp_path / "etc/systemd/system/certbot.timer").symlink_to("/dev/null")

    assert foreign(config_dir, tmp_path) == ["snap.certbot.renew.timer"]


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_certbot_that_has_the_plugin_is_not_another_one(tmp_path, where):
    config_dir = machine(tmp_path, systemd=False)
    if where == "here":
        certbot = Path(sys.prefix, "bin/certbot")
        write(tmp_path / "usr/bin/certbot", f"#!{certbot.with_name('python3')}\n")
    else:
        plugin = (
            "opt/other/local/lib/python3.11/dist-packages/certbot_postfix-1.dist-info"
        )
        (tmp_path / plugin).mkdir(parents=True)

    assert foreign(config_dir, tmp_path) == []


def test_the_timer_s_own_command_may_be_changed(tmp_path):
    config_dir = machine(tmp_path, systemd=True)
    write(tmp_path / "opt/own/bin/certbot", "#!/opt/own/bin/python3\n")
    library = tmp_path / "opt/own/lib/python3.11/site-packages"
    (library / "certbot_postfix-1.dist-info").mkdir(parents=True)
    write(
        tmp_path / "etc/systemd/system/certbot.service.d/own.conf",
        "[Service]\nExecStart=\nExecStart=/opt/own/bin/certbot renew\n",
    )

    assert foreign(config_dir, tmp_path) == ["snap.certbot.renew.timer"]


@pytest.mark.parametrize("hooked", [False, True])
def test_another_certbot_is_a_finding_unless_a_hook_deploys_what_it_renews(
    scene: Scene, base: Path, hooked: bool
):
    scene.lineage(NAME)
    scene.stand(NAME)
    config_dir = scene.certbot.config_dir
    entry = f"0 */12 * * * root {RENEW} --config-dir {config_dir}\n"
    write(base / "root/usr/bin/certbot", "#!/opt/other/bin/python3\n")
    write(base / "root/etc/cron.d/own", entry)
    if hooked:
        renew_hook(config_dir, base)

    facts = collect_facts(
        Postfix(scene.postfix.config_dir),
        config_dir / "postfix",
        Deadline(20),
        base / "root",
    )

    found = {each.code.value: each for each in report.make(facts).findings}
    assert ("another-certbot" in found) is not hooked
    if not hooked:
        hint = found["another-certbot"].hint
        assert "remove the entry for certbot in /etc/cron.d/own" in hint
        assert f"{sys.prefix}/bin/certbot renew" in hint


CRON = 'mount --bind "$0" /etc/cron.d && exec "$@"'


@pytest.mark.postfix
def test_another_certbot_is_reported_at_the_installation_and_by_status(
    scene: Scene, base: Path
):
    if reason := obstacle():
        pytest.skip(reason)
    scene.lineage(NAME)
    write(base / "bin/certbot", "#!/nowhere/bin/python3\n")
    own = f"{base}/bin/certbot -q renew --config-dir {scene.certbot.config_dir}"
    write(base / "cron.d/own", f"0 */12 * * * root {own}\n")
    install = ("install", "--cert-name", NAME, *options(scene.postfix))
    inside = ["unshare", "--mount", "sh", "-c", CRON, str(base / "cron.d")]

    installed = scene.run([*inside, *scene.certbot.argv(*install)])
    checked = scene.run([*inside, *scene.argv("status", "--json")])

    findings = json.loads(checked.stdout)["findings"]
    (finding,) = (each for each in findings if each["code"] == "another-certbot")
    succeeded(installed)
    assert f"/etc/cron.d/own renews with {base}/bin/certbot" in told(installed)
    assert f"Hint: {finding['hint']}" in told(installed)
    assert finding["message"] in told(installed)
