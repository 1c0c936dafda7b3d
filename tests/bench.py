"""What the plugin costs, measured side by side: ``make bench``.

Each figure compares variants that take turns in one run, so that a busy machine slows
all of them alike; where little is at stake, the processor time tells more on one.  A
missed target is printed and is no failure.  Exits with status 1 only if a command that
is measured fails.  ``python -m tests.bench deploy`` measures one of import, deploy,
renew, programs and table.
"""

import compileall
import contextlib
import importlib.metadata
import re
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import certbot_postfix
from certbot_postfix.outbound.update import LARGE
from certbot_postfix.tls.pem import joined
from tests import bench_clients as clients
from tests import bench_dane as dane
from tests import bench_learning as learning
from tests import bench_names as names
from tests import bench_policies as policies
from tests.bench_table import bench_table
from tests.lab import (
    Authority,
    Certbot,
    Pebble,
    PrivatePostfix,
    base_directory,
    install_lineage,
    renew_lineage,
)
from tests.lab.machine import LabError, wait_until
from tests.lab.postfix import SERVICES

NAME = "mx.example.org"

# Turns of each variant.
IMPORTS, DEPLOYMENTS, RENEWALS, LOOKS = 35, 8, 35, 35

# certbot in an environment that is one directory, without site (-S) and the user (-I).
_CERTBOT = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
from certbot.main import main
sys.argv[0] = "certbot"
sys.exit(main())
"""

# What an administrator's own hook would do at the very least, and prove as we do.
_BY_HAND = """\
set -eu
etc=$1 live=$2 smtp=$3 submission=$4 submissions=$5 hot=$6

fingerprint() { openssl x509 -noout -fingerprint -sha256; }
wanted=$(fingerprint < "$live/cert.pem")

await() {
    until [ "$(openssl s_client -connect "$@" < /dev/null 2> /dev/null |
               fingerprint 2> /dev/null)" = "$wanted" ]
    do sleep 0.1
    done
}

postconf -c "$etc" -e \
    "smtpd_tls_chain_files = $live/privkey.pem $live/fullchain.pem"
[ "$hot" = yes ] || touch -d "10 seconds ago" "$etc/main.cf"
postfix -c "$etc" reload
await "127.0.0.1:$smtp" -starttls smtp
await "127.0.0.1:$submission" -starttls smtp
await "127.0.0.1:$submissions"
"""

# Logs its arguments, the state of the configuration that it was started on, and what
# the program printed, but for postconf's own number.  The dot saves line ends from the
# command substitution.
_WRAPPER = """\
#!/bin/sh
state=$(cat "$2/main.cf" "$2/master.cf" 2> /dev/null | cksum)
answer=$({program} "$@"; status=$?; echo .; exit $status)
status=$?
printf '%s\\037' {name} "$@" "$state" >> {log}
printf %s "$answer" | grep -v '^process_id = ' | cksum >> {log}
printf %s "${{answer%.}}"
exit $status
"""

_ACTIONS = ("reload", "start", "stop")

Timer = Callable[[], float]


class FailedError(Exception):
    """A command that is measured failed, or did not do what it should."""


def main(parts: Sequence[str]) -> int:
    """Measure *parts*, or everything; return the exit status."""
    # An end from outside unwinds like any error, so that nothing is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    benches = {
        "import": bench_import,
        "deploy": bench_deploy,
        "renew": bench_renew,
        "programs": bench_programs,
        "names": bench_names,
        "table": bench_table,
        "policies": bench_policies,
        "learning": bench_learning,
        "clients": bench_clients,
        "dane": bench_dane,
    }
    if unknown := set(parts) - set(benches):
        print(f"bench: error: there is no {min(unknown)}", file=sys.stderr)
        return 2
    compileall.compile_dir(
        Path(certbot_postfix.__file__).parent, quiet=1
    )  # as pip does
    began = time.monotonic()
    print("medians (and minima) of variants that took turns")
    try:
        for part in parts or benches:
            with base_directory() as base:
                benches[part](base)
    except (LabError, FailedError) as error:
        print(f"\nbench: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbench: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"\nmeasured in {time.monotonic() - began:.0f} seconds")
    return 0


# Many names


def bench_names(_base: Path) -> None:
    """Compare many names with few, and our database with postmap's own."""
    heading("a renewal, a deployment and a database with many names")
    times = names.measure(take_turns)
    report_times(times)
    few, _, many, _, bare, ours = times.values()
    report_ratio("renewal, many to few", many, few, 2.0)
    report_ratio("database, ours to postmap's", ours, bare, 1.3)


# Policies for mail that is sent


def bench_policies(_base: Path) -> None:
    """Compare a list of policies, from its file to the table, with postmap alone."""
    heading(f"a list of {policies.DOMAINS:,} domains, from its file to the table")
    for each in policies.compilations():
        for label, cost in (("postmap", each.bare), ("refresh", each.ours)):
            print(
                f"  {each.form:5} {label}: {cost.elapsed:6.1f} s, of the processor"
                f" {cost.processor:6.1f} s, {cost.memory / (1 << 20):5.0f} MiB"
            )
        report_ratio(
            f"{each.form}, refresh to postmap",
            [each.ours.elapsed],
            [each.bare.elapsed],
            3.0,
        )
        report_ratio(
            f"{each.form}, memory to 1 GiB", [each.ours.memory], [policies.GIB], 1.0
        )
    heading(f"MTA-STS of {policies.RECIPIENTS:,} domains, answers after 20 ms")
    found = policies.looks()
    print(
        f"  one after the other ({policies.ONE_BY_ONE} of them): {found.single:.4f} s"
    )
    print(f"  side by side: {found.together:.4f} s for each")
    times = found.single / found.together
    report(f"{times:.1f} times faster", "at least 20 times", met=times >= 20)
    print(f"  to find that nothing is due: {found.due:.3f} s of the processor")
    print(f"  to read the cache once: {found.read:.3f} s of the processor")
    report(f"{found.due / found.read:.1f} times", "under 1 s", met=found.due < 1)


def bench_learning(base: Path) -> None:
    """Compare the domains of a mail log with grep, which counts the same lines."""
    heading(f"recipient domains in a mail log of {learning.SIZE >> 20} MiB")
    found = learning.measure(base)
    for label, seconds in (("grep -c", found.grep), ("learn", found.ours)):
        print(f"  {label:8} {statistics.median(seconds):.2f} s ({min(seconds):.2f})")
    report_ratio("learning to grep -c 'status='", found.ours, found.grep, 2.0)
    slowest, memory = max(found.ours), max(found.memory) >> 20
    report(f"{slowest:.1f} s, {memory} MiB", "at most 30 s", met=slowest <= 30)


def bench_clients(base: Path) -> None:
    """Compare processes of smtp(8) with maps of several types and sizes."""
    heading("a process of smtp, and one delivery, with many policies")
    found = clients.measure(base)
    nothing = statistics.median(found[0].processor)
    for each in found:
        taken = statistics.median(each.processor)
        print(
            f"  {each.name:16} processor {1000 * taken:6.1f} ms,"
            f" memory {each.private / (1 << 20):5.1f} MiB"
        )
        if (each.form, each.count) == ("texthash", LARGE):
            # Each process makes up to a hundred deliveries.
            longer = (taken - nothing) / nothing
            report(f"{longer:.2f} of a start more", "at most 0.75", met=longer <= 0.75)


def bench_dane(base: Path) -> None:
    """Compare a look at many servers with one question; what a host without has."""
    heading(
        f"TLSA records of {dane.ENDPOINTS} endpoints at {dane.SERVERS} servers each,"
        f" answers after {1000 * dane.LATENCY:.0f} ms"
    )
    with dane.servers():
        variants = {"one question": timed(dane.ask_one), "look": timed(dane.look)}
        times = take_turns(variants, LOOKS)
    report_times(times)
    report_ratio("look to one question", times["look"], times["one question"], 4.0)

    heading("certbot renew with nothing due, on a host without TLSA records")
    with contextlib.closing(PrivatePostfix(base, hostname=NAME)) as postfix:
        (_, without), (_, client) = _renewals(base, postfix)
        postfix.set(smtpd_tls_chain_files=str(client.bundle(NAME)))
        postfix.settle()
        null, ours = dane.deeds(without, base), dane.deeds(client, base)
    few, many = len(set(null.files)), len(set(ours.files))
    print(f"  files opened: {many}, by the null one {few}")
    asks = "dns" in ours.imports
    more = len(ours.questions) - len(null.questions)
    programs = len(ours.programs) - len(null.programs)
    report(
        f"{more} questions, {programs} programs more than with installer = null;"
        f" dnspython is {'imported' if asks else 'not imported'}",
        "none",
        met=not (more or programs or asks),
    )


# Importing the plugin


def bench_import(base: Path) -> None:
    """Compare ``certbot --version`` in one environment with and without the plugin."""
    heading("certbot --version, without and with the plugin")
    variants: dict[str, Timer] = {}
    processor: dict[str, list[float]] = {"without": [], "with": []}
    for label, plugin in (("without", False), ("with", True)):
        command = [sys.executable, "-I", "-S", "-c", _CERTBOT]
        command.append(str(_environment(base / label, plugin=plugin)))
        listed = "* postfix" in run([*command, "plugins", *_directories(base)])
        if listed != plugin:
            raise FailedError(f"certbot {label} the plugin: listed is {listed}")
        timer = timed(run, [*command, "--version"])
        variants[label] = noting_processor_time(timer, processor[label])
    times = take_turns(variants, IMPORTS)
    report_times(times)
    report_ratio("the plugin's import", times["with"], times["without"], 1.05)
    busy = ratio(processor["with"], processor["without"])
    print(f"  for information, the time of the processor: {busy}")


def _environment(directory: Path, *, plugin: bool) -> Path:
    """Link all installed packages into *directory*, the plugin's only if *plugin*."""
    directory.mkdir()
    for kind in ("purelib", "platlib"):
        for path in Path(sysconfig.get_path(kind)).iterdir():
            link = directory / path.name
            if "certbot_postfix" not in path.name and not link.exists():
                link.symlink_to(path)
    if plugin:
        # Whatever the way it was installed, for example as editable.
        (directory / "certbot_postfix").symlink_to(Path(certbot_postfix.__path__[0]))
        installed = importlib.metadata.distribution("certbot-postfix")
        info = directory / f"certbot_postfix-{installed.version}.dist-info"
        info.mkdir()
        for name in ("METADATA", "entry_points.txt"):
            (info / name).write_text(installed.read_text(name) or "")
    return directory


def _directories(base: Path) -> list[str]:
    options = ("--config-dir", "--work-dir", "--logs-dir")
    return [part for option in options for part in (option, str(base / option[2:]))]


# Deploying


def bench_deploy(base: Path) -> None:
    """Compare ``certbot install -i postfix`` with the same done by hand."""
    heading("certbot install -i postfix, and the bare minimum by hand")
    with PrivatePostfix(base, hostname=NAME) as postfix:
        contest = Contest(postfix, Certbot(base))
        null: list[float] = []
        times = take_turns(
            {
                "by hand": lambda: contest.by_hand(null),
                "by hand, main.cf not hot": lambda: contest.by_hand(null, hot=False),
                "certbot install -i postfix": contest.ours,
            },
            DEPLOYMENTS,
        )
    report_times({"certbot install -i null": null, **times})
    alone = statistics.median(null)
    for label, sample in times.items():
        rest = statistics.median(sample) - alone
        print(f"  {label}: {seconds(rest)} besides certbot's own {seconds(alone)}")
    ours, floor = times["certbot install -i postfix"], times["by hand"]
    report_ratio("a deployment against the floor", ours, floor, 1.0)
    cool = times["by hand, main.cf not hot"]
    report_ratio("without the wait for a hot main.cf", ours, cool, 3.0)


class Contest:
    """Deployments of ever new certificates, each in a Postfix that serves snake oil."""

    def __init__(self, postfix: PrivatePostfix, certbot: Certbot) -> None:
        self.postfix = postfix
        self.certbot = certbot
        self.main_cf = postfix.main_cf.read_bytes()
        self.snake_oil = postfix.served()
        self.authority = Authority()
        issued = self.authority.issue(NAME)
        self.live = install_lineage(certbot.config_dir, NAME, issued)

    def ours(self) -> float:
        """Deploy with the plugin."""
        with self._deployment():
            return self._install("postfix", *_instance(self.postfix))

    def by_hand(self, null: list[float], *, hot: bool = True) -> float:
        """Deploy with a shell script; note the time of certbot itself in *null*.

        Unless *hot*, main.cf gets an older time, which spares Postfix its wait.
        """
        ports = [str(self.postfix.ports[service]) for service in SERVICES]
        command = ["sh", "-c", _BY_HAND, "by-hand"]
        command += [str(self.postfix.config_dir), str(self.live), *ports]
        command.append("yes" if hot else "no")
        with self._deployment():
            null.append(self._install("null"))
            return null[-1] + timed(run, command)()

    def _install(self, installer: str, *options: str) -> float:
        arguments = ("install", "--cert-name", NAME, "-i", installer, *options)
        return timed(certbot, self.certbot, *arguments)()

    @contextlib.contextmanager
    def _deployment(self) -> Iterator[None]:
        self._reset()
        issued = self.authority.issue(NAME)
        renew_lineage(self.certbot.config_dir, NAME, issued)
        yield
        for service in SERVICES:
            if self.postfix.served(service) != issued.leaf:
                raise FailedError(f"{service} does not serve what was deployed")

    def _reset(self) -> None:
        self.postfix.main_cf.write_bytes(self.main_cf)
        self.postfix.settle()
        shutil.rmtree(self.certbot.config_dir / "postfix", ignore_errors=True)
        shutil.rmtree(self.certbot.work_dir, ignore_errors=True)
        self.postfix.reload()
        wait_until(self._is_reset, "the snake oil is back")
        time.sleep(0.5)

    def _is_reset(self) -> bool:
        return all(self.postfix.served(each) == self.snake_oil for each in SERVICES)


# Renewing


def bench_renew(base: Path) -> None:
    """Compare ``certbot renew`` of nothing with the null installer's."""
    heading("certbot renew with nothing due, for installer = null and postfix")
    with contextlib.closing(PrivatePostfix(base, hostname=NAME)) as postfix:
        variants: dict[str, Timer] = {}
        processor: dict[str, list[float]] = {}
        for installer, client in _renewals(base, postfix):
            if "not due for renewal" not in certbot(client, "renew"):
                raise FailedError("certbot renew has something to do")
            processor[installer] = []
            timer = timed(certbot, client, "renew")
            variants[installer] = noting_processor_time(timer, processor[installer])
        times = take_turns(variants, RENEWALS)
    report_times(times)
    more, busy = (
        statistics.median(sample["postfix"]) - statistics.median(sample["null"])
        for sample in (times, processor)
    )
    least = min(times["postfix"]) - min(times["null"])
    report(
        f"renewing nothing takes {1000 * more:+.1f} ms (minima {1000 * least:+.1f} ms,"
        f" median of processor time {1000 * busy:+.1f} ms)",
        "at most +10 ms",
        met=more <= 0.010,
    )


def _renewals(base: Path, postfix: PrivatePostfix) -> Iterator[tuple[str, Certbot]]:
    """Yield certbot with a lineage that is not due, of the null installer and ours."""
    issued = Authority().issue(NAME)
    for installer in ("null", "postfix"):
        (base / installer).mkdir()
        client = Certbot(base / installer)
        directory = str(postfix.config_dir)
        options = {"postfix_config_dir": directory} if installer != "null" else {}
        install_lineage(client.config_dir, NAME, issued, installer=installer, **options)
        _forget_renewal_information(client)
        # As if it were deployed: the plugin then compares it with its lineage.
        bundle = client.bundle(NAME)
        bundle.parent.mkdir(mode=0o700)
        bundle.write_bytes(joined(issued.key_pem, issued.fullchain_pem))
        yield installer, client


def _forget_renewal_information(client: Certbot) -> None:
    """Let certbot not ask the ACME server when to renew (RFC 9773), which is none."""
    renewal = client.config_dir / "renewal" / f"{NAME}.conf"
    with renewal.open("a") as file:
        file.write("[acme_renewal_info]\nari_retry_after = 2999-01-01T00:00:00\n")


# Programs


def bench_programs(base: Path) -> None:
    """Print which programs a deployment and a renewal start."""
    with (
        PrivatePostfix(base, hostname=NAME) as postfix,
        base_directory() as place,
        Pebble(place) as pebble,
    ):
        log = base / "started"
        options = _instance(postfix)
        for option, name in (("ctl", "postfix"), ("config-utility", "postconf")):
            wrapper = _wrapper(base / name, log)
            options += [f"--postfix-{option}", str(wrapper)]
        client = Certbot(place, pebble=pebble)
        issue = ("run", "-a", "standalone", "-i", "postfix", "-d", NAME)
        install = ("install", "--cert-name", NAME, "-i", "postfix")
        for title, arguments in (
            ("a deployment: certbot run", (*issue, *options)),
            ("the same again: certbot install", (*install, *options)),
            ("a renewal: certbot renew --force-renewal", ("renew", "--force-renewal")),
            ("nothing due: certbot renew", ("renew",)),
        ):
            log.write_text("")
            heading(f"programs of {title}")
            certbot(client, *arguments)
            report_programs(log.read_text().splitlines(), postfix.config_dir)


def _wrapper(path: Path, log: Path) -> Path:
    program = shutil.which(path.name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise FailedError(f"{path.name} is not installed")
    path.write_text(_WRAPPER.format(name=path.name, log=log, program=program))
    path.chmod(0o755)
    return path


def report_programs(lines: Sequence[str], config_dir: Path) -> None:
    """Print what was started, and what was started twice for the same answer.

    What is read again after a change is not that; whether it had to be is left to the
    reader, who learns whether the answer was another.
    """
    answers: dict[str, str] = {}
    asked: set[tuple[str, str]] = set()
    counts: Counter[str] = Counter()
    twice = repeated = 0
    for number, line in enumerate(lines, start=1):
        *argv, state, answer = line.split("\037")
        counts[argv[0]] += 1
        shown, remark = _shown(argv, config_dir), ""
        if (shown, state) in asked:
            twice += 1
            remark = "   TWICE for the same answer"
        elif shown in answers and argv[0] == "postconf":
            same = answers[shown] == answer
            repeated += same
            remark = f"   again: {'the same answer' if same else 'another answer'}"
        print(f"  {number:2}. {shown}{remark}")
        answers[shown] = answer
        asked.add((shown, state))
        if argv[-1] in _ACTIONS:
            asked.clear()  # every answer may be another now
    listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    report(
        f"{len(lines)} programs ({listed or 'none'}): {twice} on an unchanged state,"
        f" {repeated} had the same answer after a change",
        "none twice for the same answer",
        met=not twice,
    )


def _shown(argv: Sequence[str], config_dir: Path) -> str:
    """Return the command with short names for the directories."""
    names = {str(config_dir): "ETC"}
    if argv[1:2] == ["-c"]:
        names.setdefault(argv[2], "STAGED")
    command = [names.get(argument, argument) for argument in argv]
    return re.sub(r"/\S+/(?=letsencrypt/)", "…/", shlex.join(command))


# Measuring and reporting


def _instance(postfix: PrivatePostfix) -> list[str]:
    return ["--postfix-config-dir", str(postfix.config_dir)]


def run(command: Sequence[str]) -> str:
    """Return what *command* printed; raise `FailedError` if it failed."""
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent"},
        timeout=60,
    )
    return _checked(done)


def certbot(client: Certbot, *arguments: str) -> str:
    """Return what certbot printed; raise `FailedError` if it failed."""
    return _checked(client(*arguments))


def _checked(done: "subprocess.CompletedProcess[str]") -> str:
    output = done.stdout + done.stderr
    if done.returncode:
        command = shlex.join(map(str, done.args))
        raise FailedError(f"{command} failed ({done.returncode}): {output}")
    return output


def timed(function: Callable[..., object], *arguments: object) -> Timer:
    """Return a function that returns the seconds of calling *function*."""

    def measure() -> float:
        began = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - began

    return measure


def noting_processor_time(timer: Timer, spent: list[float]) -> Timer:
    """Return *timer*, which also adds the processor time of its processes to *spent*.

    What others do at the same time disturbs that less than the time on the clock.
    """

    def total() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def measure() -> float:
        before = total()
        elapsed = timer()
        spent.append(total() - before)
        return elapsed

    return measure


def take_turns(variants: Mapping[str, Timer], turns: int) -> dict[str, list[float]]:
    """Measure every variant *turns* times, after each other, again and again."""
    times: dict[str, list[float]] = {label: [] for label in variants}
    for _ in range(turns):
        for label, measure in variants.items():
            times[label].append(measure())
    return times


def heading(text: str) -> None:
    """Begin a part."""
    print(f"\n{text}", flush=True)


def report_times(times: Mapping[str, Sequence[float]]) -> None:
    """Print the measured times, a line for each variant."""
    width = max(map(len, times))
    for label, sample in times.items():
        median, least = seconds(statistics.median(sample)), seconds(min(sample))
        print(f"  {label:{width}}  {median} ({least}), {len(sample)} turns")


def report_ratio(
    what: str, ours: Sequence[float], theirs: Sequence[float], most: float
) -> None:
    """Print the ratio of medians beside the *most* that it should be."""
    met = statistics.median(ours) <= most * statistics.median(theirs)
    report(f"{what}: {ratio(ours, theirs)}", f"at most {most:.2f}", met=met)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the ratios of medians and minima as text."""
    medians = statistics.median(ours) / statistics.median(theirs)
    return f"ratio {medians:.3f} (minima {min(ours) / min(theirs):.3f})"


def seconds(value: float) -> str:
    """Return *value* in seconds as text."""
    return f"{value:.3f} s"


def report(result: str, target: str, *, met: bool) -> None:
    """Print a result with its target."""
    print(f"  {result}; target: {target}: {'ok' if met else 'MISSED'}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
