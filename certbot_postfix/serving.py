"""What a running instance serves: have it read its files anew, prove what it shows.

Success is concluded from handshakes alone.  Raises `ProofError`, `UnansweredError`, or
`ProgramError` where Postfix does not do as told.
"""

import logging
import socket
import time
from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from pathlib import Path

from certbot_postfix import probe, signals, sni
from certbot_postfix.configuration import (
    Configuration,
    Endpoint,
    endpoints,
    with_own_certificate,
)
from certbot_postfix.errors import ProgramError, ProofError, UnansweredError
from certbot_postfix.postfix import Postfix
from certbot_postfix.probe import Question
from certbot_postfix.promises import Promise

logger = logging.getLogger(__name__)

# Seconds after a reload at which the master process must still be there: it reads
# master.cf after `postfix reload` ended, and may die of what it finds.
SETTLE = 1.0

# In a sentence, for a client without server name.
NO_NAME = "no name"

# Seconds in which the old certificate must be back before Postfix is started anew.
BACK = 5.0


class Serving:
    """The running side of *postfix*, if it runs.

    *timeout* is in seconds, 0 asks for no proof; *say* tells the user how it went.
    """

    def __init__(
        self, postfix: Postfix, timeout: float, say: Callable[[str], None]
    ) -> None:
        self.postfix = postfix
        self.timeout = timeout
        self.say = say
        # The services that showed a certificate before anything was changed, if known.
        self.healthy: frozenset[str] | None = None

    @cached_property
    def ran(self) -> bool:
        """Whether Postfix ran when it was first asked."""
        return self.postfix.running()

    def shows(
        self,
        configuration: Configuration,
        promises: Collection[Promise],
        paths: Iterable[Path],
    ) -> bool:
        """Whether every service keeps the *promises* already.

        Another process than the one that was asked may have read what was there before
        the files *paths*: then nobody knows.
        """
        questions = _questions(configuration, promises)
        if not (self.ran and self.timeout and questions):
            return False
        if self.postfix.outdated(configuration, paths):
            return False
        try:
            probe.prove(questions, timeout=0)
        except ProofError:
            return False
        return True

    def foresee(self, configuration: Configuration) -> None:
        """Look at the services before anything is changed.

        Raises `MisconfiguredError` if Postfix would not survive a reload.
        """
        self.postfix.refuse_fatal_reload(configuration)
        if self.ran and self.timeout:
            found = [*endpoints(configuration)[0], *with_own_certificate(configuration)]
            self.healthy = probe.showing(_plain(found), timeout=probe.LEAST)

    def activate(
        self, configuration: Configuration, promises: Collection[Promise]
    ) -> None:
        """Reload, and return when every service keeps the *promises*."""
        self._activate(configuration, promises, self.timeout)

    def reload(self, configuration: Configuration) -> None:
        """Reload, where no certificate has changed, and see that Postfix lives."""
        if not self.ran:
            self.say("Postfix does not run, and was not started.")
            return
        self.postfix.refuse_fatal_reload(configuration)
        self.postfix.reload()
        time.sleep(SETTLE)
        self._must_run()

    def bring_back(
        self, configuration: Configuration, promises: Collection[Promise]
    ) -> None:
        """Do the same for files that are the old ones again, by all means."""
        with signals.uninterruptible():
            self._bring_back(configuration, promises)

    def _bring_back(
        self, configuration: Configuration, promises: Collection[Promise]
    ) -> None:
        self.postfix.refuse_fatal_reload(configuration)
        self.say("What was there before is put back.")
        try:
            self._activate(
                configuration, promises, min(self.timeout, BACK), self.healthy
            )
        except ProgramError:
            if self.postfix.running():
                raise
            self.postfix.start()  # it ran, and died of what is undone now
        except UnansweredError:
            # A service that died at its start stays down for a minute, whatever is
            # mended and reloaded.  One that did not answer before is not ours to mend.
            if self.healthy is None:
                raise
            self.postfix.restart()
        else:
            return
        self._prove(configuration, promises, self.timeout, self.healthy)

    def _activate(
        self,
        configuration: Configuration,
        promises: Collection[Promise],
        timeout: float,
        names: frozenset[str] | None = None,
    ) -> None:
        if not self.ran:
            logger.warning(
                "Postfix in %s does not run and was not started; what it will serve"
                " could not be proven.",
                self.postfix.directory,
            )
            return
        self.postfix.reload()
        self._prove(configuration, promises, timeout, names)

    def _prove(
        self,
        configuration: Configuration,
        promises: Collection[Promise],
        timeout: float,
        names: frozenset[str] | None,
    ) -> None:
        """Prove for the services with *names*, None for all of them."""
        if not timeout:
            self.say("No proof was wanted, and none was made.")
            return
        settled = time.monotonic() + SETTLE
        questions = _questions(configuration, promises)
        if names is not None:
            questions = [one for one in questions if one.endpoint.service in names]
        seen_alive = self._ask(questions, timeout)
        # A service's own certificate is not ours, and not to be harmed either.
        others = _plain(with_own_certificate(configuration))
        known = self.healthy or frozenset()
        healthy = [one for one in others if one.endpoint.service in known]
        seen_alive = self._ask(healthy, timeout) or seen_alive
        if not seen_alive:
            time.sleep(max(0.0, settled - time.monotonic()))
            self._must_run()
        self.say(_told(questions))

    def _ask(self, questions: list[Question], timeout: float) -> bool:
        """Prove, but do not wait for a Postfix that is dead.

        Returns whether it was seen to run when the time to settle was over.
        """
        try:
            probe.prove(questions, timeout=min(timeout, SETTLE))
        except ProofError:
            self._must_run()
        else:
            return False
        try:
            probe.prove(questions, timeout=timeout - SETTLE)
        except ProofError:
            self._must_run()
            raise
        return timeout >= SETTLE

    def _must_run(self) -> None:
        if not self.postfix.running():
            raise ProgramError(
                f"Postfix in {self.postfix.directory} died after it was reloaded",
                hint='look for "fatal" at the end of the mail log',
            )


def _told(questions: list[Question]) -> str:
    """Say what is proven when *questions* were answered as expected."""
    if not questions:
        return (
            "No service of Postfix shows the certificate that main.cf names:"
            " nothing could be proven."
        )
    asked: dict[str, list[Question]] = {}  # in the order of the questions
    for one in questions:
        asked.setdefault(" or ".join(map(str, one.expected)), []).append(one)
    shown: dict[str, list[str]] = {}
    for expected, ones in asked.items():
        where = ", ".join(sorted({str(one.endpoint) for one in ones}))
        names = {one.server_name or NO_NAME for one in ones}
        several = len(asked) > 1 or len(names - {NO_NAME}) > 1
        told = f"{expected} to who asks for {_some(names)}" if several else expected
        shown.setdefault(where, []).append(told)
    parts = (f"{where} serve {', and '.join(told)}" for where, told in shown.items())
    return f"Proven: {'; '.join(parts)}."


def _some(names: set[str]) -> str:
    """Return some of *names* for a sentence."""
    told = sorted(names - {NO_NAME})
    if len(told) > 3:
        told[3:] = [f"{len(told) - 3} more names"]
    told += [NO_NAME] if NO_NAME in names else []
    return " and ".join(filter(None, [", ".join(told[:-1]), told[-1]]))


def _questions(
    configuration: Configuration, promises: Collection[Promise]
) -> list[Question]:
    found, notes = endpoints(configuration)
    for note in notes:
        logger.info("%s", note)
    of_services = with_own_certificate(configuration)
    table = configuration.value(sni.PARAMETER)
    services = {str(each): each for each in configuration.services}
    return [
        Question(endpoint, promise.server_name, promise.expected)
        for endpoint in (*found, *of_services)
        if _here(endpoint)
        for promise in promises
        if endpoint.service in (promise.services or {one.service for one in found})
        # A service's own table is not ours.
        if promise.server_name is None
        or configuration.value(sni.PARAMETER, services[endpoint.service]) == table
    ]


def _plain(found: Iterable[Endpoint]) -> list[Question]:
    return [Question(endpoint, None) for endpoint in found if _here(endpoint)]


def _here(endpoint: Endpoint) -> bool:
    """Whether this machine has the address, which an IPv6 one may not be."""
    if ":" not in endpoint.host:
        return True
    try:
        with socket.socket(socket.AF_INET6) as attempt:
            attempt.bind((endpoint.host, 0))
    except OSError:
        return False
    return True
