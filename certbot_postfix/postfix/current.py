"""The configuration of an instance as it is now, read once for all who work on it."""

from functools import cached_property

from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.instance import Postfix


class Current:
    """What is known of *postfix*: read when it is first needed, and after a change."""

    def __init__(self, postfix: Postfix) -> None:
        self.postfix = postfix

    @cached_property
    def configuration(self) -> Configuration:
        """The configuration as it was when it was last read."""
        return self.postfix.read()

    def forget(self) -> None:
        """Read everything anew when it is needed again."""
        self.__dict__.pop("configuration", None)

    def changed(self) -> None:
        """Read anew what a change of main.cf may change."""
        self.configuration = self.postfix.read_again(self.configuration)
