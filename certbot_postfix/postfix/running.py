"""The processes of an instance: whether they run, and read their files anew.

Raises `ProgramError` where Postfix does not do as told.
"""

import time
from functools import cached_property
from pathlib import Path

from certbot_postfix.errors import ProgramError, named_logger
from certbot_postfix.postfix import processes
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.mail_log import MailLog
from certbot_postfix.system.deadline import Deadline
from certbot_postfix.system.reporter import Reporter

logger = named_logger(__name__)

# Seconds after a reload at which the master process must still be there: it reads
# master.cf after `postfix reload` ended, and may die of what it finds.
SETTLE = 1.0

# Seconds between two looks at whether it is.
LOOK = 0.02


class Running:
    """The processes of *postfix*, if it runs; the *reporter* is read by the user."""

    def __init__(self, postfix: Postfix, reporter: Reporter) -> None:
        self.postfix = postfix
        self.reporter = reporter
        # The directory with which the Postfix was started that is met, if another.
        self.elsewhere: Path | None = None
        self._log: MailLog | None = None  # from the last reload on
        self._managers = set[int]()  # before the last reload

    @cached_property
    def ran(self) -> bool:
        """Whether Postfix ran when it was first asked."""
        return self.postfix.running()

    @property
    def started(self) -> str:
        """Say with which directory the Postfix was started that is met."""
        return f"the Postfix that listens there was started with {self.elsewhere}"

    def reload(self, configuration: Configuration) -> bool:
        """Reload, if Postfix runs; return whether it does."""
        self.elsewhere = processes.elsewhere(configuration)
        if not self.ran:
            another = f" ({self.started})" if self.elsewhere else ""
            logger.warning(
                "Postfix (%s) is not running and was not started, so the certificate"
                " could not be verified%s. It will be used when Postfix starts; run"
                " `certbot-postfix status` then.",
                self.postfix.directory,
                another,
            )
            return False
        self._log = MailLog(configuration)
        self.signal(configuration)
        return True

    def signal(self, configuration: Configuration) -> None:
        """Tell the processes to read their files anew."""
        self._managers = processes.queue_managers(configuration)
        another = configuration.certbot_options
        which = f"Postfix ({self.postfix.directory})" if another else "Postfix"
        with self.reporter.step(f"Reloading {which}"):
            self.postfix.reload()

    def settle(
        self, configuration: Configuration, deadline: Deadline, *, whole: bool = False
    ) -> None:
        """Return when the master process has survived the reload, or at *deadline*.

        Idle processes from before it may live until then: *whole* waits for them.
        """
        known = set[int]() if whole else self._managers
        while deadline.left:
            if known and processes.queue_managers(configuration) - known:
                break
            time.sleep(LOOK)
        self.must_run()

    def must_run(self) -> None:
        """Raise `ProgramError` if the master process is gone."""
        if not self.postfix.running():
            raise ProgramError(
                f"Postfix ({self.postfix.directory}) terminated after the reload",
                hint='look for "fatal" at the end of the mail log',
            )

    def cause(self) -> str:
        """Return what the mail log says of a service that fails since the reload."""
        return self._log.cause() if self._log else ""
