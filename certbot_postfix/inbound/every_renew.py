"""What each ``certbot renew`` looks at for a lineage, before Postfix is asked anything.

certbot comes here twice a day, for every lineage: few files are read, and a program is
started only where something of ours is there, and no option names its place.  What few
hosts need is imported where it is needed: the time of each run counts.
"""

import functools
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from certbot import errors
from certbot.plugins import util as plugin_util

from certbot_postfix.dane import places
from certbot_postfix.errors import BusyError, Error, named_logger, shown
from certbot_postfix.inbound import bundles, dropped
from certbot_postfix.inbound.lineage import Lineage
from certbot_postfix.outbound import last_refresh
from certbot_postfix.postfix import own_names
from certbot_postfix.system import programs

if TYPE_CHECKING:
    from certbot_postfix.inbound.session import Deployment

logger = named_logger(__name__)

# Seconds that certbot may take, for plugins that wait for DNS.
_LONGEST = 3600

# The instances whose policies this process has refreshed, and what it has deployed.
_refreshed: set[Path] = set()
_deployed: set[Lineage] = set()


# Commands that have certbot run again, and wait until it has released its locks.
_afterwards: list[list[str]] = []


class Plugin(Protocol):
    """What is needed of certbot's installer, which certbot has not prepared."""

    name: str
    config: Any

    def conf(self, var: str) -> Any:
        """Return the value of an option."""

    def find(self) -> "Deployment":
        """Return what can be done to Postfix, which is not locked for that."""

    def prepared(self) -> "Deployment":
        """Lock Postfix, and return what can be done to it."""


def deploy(session: "Deployment", lineage: Lineage) -> bool:
    """Have *session* renew *lineage*; certbot reports an error as a failed renewal.

    Returns whether Postfix uses it.
    """
    try:
        used = session.renew(lineage)
    except Error as error:
        error.message = (
            "the certificate was renewed, but could not be installed in Postfix:"
            f" {error.message}"
        )
        raise
    _deployed.add(lineage)  # which is not compared with its bundle again
    return used


class EveryRenew:
    """What ``certbot renew`` has *plugin* do."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.root = bundles.below(plugin.config.config_dir)

    def visit(self, lineage: Lineage) -> None:
        """Deploy a renewal of *lineage* that was missed; refresh outbound policies."""
        directory = self._directory()
        if not directory:
            return
        try:
            self._make_up(lineage, directory)
        finally:
            if self._advances(lineage, directory):
                from certbot_postfix.inbound import rolling_commands  # noqa: PLC0415

                _afterwards.append(rolling_commands.advance(self.plugin, lineage))
            if self._is_time(lineage.name, directory / own_names.POLICY_MAP):
                self._refresh_policies(directory)

    def _directory(self) -> Path | None:
        """Return Postfix's directory; None if nothing of ours is there."""
        if directory := self.plugin.conf("config-dir"):
            return Path(directory)
        postconf = self.plugin.conf("config-utility")
        return _usual(postconf) if self.root.is_dir() else None

    def _bundles(self, name: str, directory: Path) -> list[tuple[Path, Path]]:
        """Return the bundles that the lineage *name* may have, each with its instance.

        certbot may have us work at a further one, in *directory*.
        """
        every = bundles.of_lineage(self.root, name, directory)
        first = self.root / f"{name}.pem"
        if first.exists() and first not in (bundle for bundle, _ in every):
            usual = _usual(self.plugin.conf("config-utility"))
            if usual and dropped.names(usual, first):
                return [(first, usual), *every]
        return every

    def _make_up(self, lineage: Lineage, directory: Path) -> None:
        used = self._bundles(lineage.name, directory)
        pending = Path(self.plugin.config.in_progress_dir).is_dir()
        for bundle, instance in used:
            self._report_dropped(lineage, bundle, instance)
            pending = pending or (
                lineage not in _deployed and lineage.pending_for(bundle, instance)
            )
        if pending:
            deploy(self.plugin.prepared(), lineage)
            return
        for bundle, _ in used:
            for problem in self._problems_of_records(bundle):
                logger.error("%s", problem)

    def _advances(self, lineage: Lineage, directory: Path) -> bool:
        """Whether the key of *lineage* may have to change, or its records."""
        # Read again: a renewal may have given an instance a bundle of its own.
        used = [bundle for bundle, _ in self._bundles(lineage.name, directory)]
        staged_key = places.next_key(self.root, lineage.name)
        if not any(path.exists() for path in (staged_key, *map(places.memory, used))):
            return False
        from certbot_postfix.inbound import tlsa_upkeep  # noqa: PLC0415

        return tlsa_upkeep.advances(self.plugin.conf, lineage, staged_key, used)

    def _problems_of_records(self, bundle: Path) -> Iterator[str]:
        """Yield what is wrong with the TLSA records of *bundle*, if it had some.

        Hosts that had none ask no DNS.
        """
        if bundle.exists() and places.memory(bundle).exists():
            from certbot_postfix.inbound import tlsa_upkeep  # noqa: PLC0415

            yield from tlsa_upkeep.problems(self.plugin.conf, self.root, bundle)

    def _report_dropped(self, lineage: Lineage, bundle: Path, directory: Path) -> None:
        if not dropped.unreported(bundle, directory):
            return
        if not self.plugin.prepared().uses(lineage):
            message = dropped.message(bundle, directory, lineage.name, self.plugin.name)
            logger.error("%s", message)  # certbot's -q leaves warnings out
        dropped.note_reported(bundle, directory)

    def _is_time(self, name: str, policy_map: Path) -> bool:
        """Whether the policies in *policy_map* are refreshed with the lineage *name*.

        That is the last one that certbot renews, so that none waits for sources that
        are slow; or any, if it was not reached for a day, since it cannot be renewed.
        """
        if policy_map.parent in _refreshed or not policy_map.exists():
            return False
        config, now = self.plugin.config, datetime.now(timezone.utc)
        cache = last_refresh.cache_directory(policy_map, self.root)
        return (
            bool(config.certname)
            or _is_last(name, Path(config.renewal_configs_dir), self.plugin.name)
            or last_refresh.overdue(cache, now)
        )

    def _refresh_policies(self, directory: Path) -> None:
        """Refresh the policies of the instance in *directory*."""
        _refreshed.add(directory)
        try:
            now = datetime.now(timezone.utc)
            outbound = self.plugin.find().outbound
            if not outbound.collector.due(now):
                return
            refreshed = outbound.refresh_sources(now, wait=0)
            self.plugin.prepared().refresh_policies(now, refreshed)
        except BusyError as error:
            logger.debug("policies are refreshed already: %s", error)
        except errors.PluginError as error:  # no renewal has failed
            logger.error("%s", error)  # noqa: TRY400 - it is known why


@functools.cache
def _usual(postconf: str) -> Path | None:
    """Return the directory that is compiled into Postfix; None if that is gone."""
    from certbot_postfix.postfix.instance import Postfix  # noqa: PLC0415

    plugin_util.path_surgery(postconf)
    try:
        return Postfix.find(None, postconf=postconf, postfix="").directory
    except Error:  # nothing can be deployed
        return None


def run_afterwards() -> None:
    """Run what was left for the end of certbot, and print what that prints."""
    while _afterwards:
        command = _afterwards.pop(0)
        try:
            environment = os.environ  # proxies, CAs, and what hooks need
            done = programs.run_to_its_end(
                command, timeout=_LONGEST, environment=environment
            )
            said = ((sys.stdout, done.stdout), (sys.stderr, done.stderr))
        except Error as error:
            said = ((sys.stdout, ""), (sys.stderr, f"{error}\n"))
        for stream, text in said:
            stream.write(shown(text, stream))
            stream.flush()


def _is_last(name: str, configurations: Path, installer: str) -> bool:
    """Whether no lineage that *installer* deploys is renewed after *name*.

    certbot takes the files in its directory *configurations* in the order of names.
    """
    from certbot_postfix.inbound import renewal_settings  # noqa: PLC0415

    return not any(
        renewal_settings.names_installer(path, installer)
        for path in configurations.glob("*.conf")
        if path.name > f"{name}.conf"
    )
