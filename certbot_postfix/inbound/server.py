"""One instance of Postfix, with all that works on it."""

from functools import cached_property
from pathlib import Path

from certbot_postfix.dane.gate import Gate
from certbot_postfix.inbound import state
from certbot_postfix.inbound.bundles import Bundles
from certbot_postfix.inbound.sni_map import SniMap
from certbot_postfix.inbound.state import State
from certbot_postfix.postfix import instances, own_names
from certbot_postfix.postfix.configuration import Configuration
from certbot_postfix.postfix.current import Current
from certbot_postfix.postfix.instance import Postfix
from certbot_postfix.postfix.serving import Serving


class Server:
    """The instance *postfix*, verified by *serving*; bundles are below *root*.

    The *gate* holds back renewals that TLSA records forbid.
    """

    def __init__(
        self, postfix: Postfix, root: Path, serving: Serving, gate: Gate
    ) -> None:
        self.postfix = postfix
        self.root = root
        self.serving = serving
        self.gate = gate
        self.current = Current(postfix)
        self.sni_map = SniMap(postfix)

    @property
    def directory(self) -> Path:
        """Where its configuration is."""
        return self.postfix.directory

    @property
    def configuration(self) -> Configuration:
        """The configuration as it was when it was last read."""
        return self.current.configuration

    @cached_property
    def others(self) -> list["Server"]:
        """The other instances of this machine."""
        every = instances.others(self.postfix, self.configuration)
        timeout, reporter = self.serving.timeout, self.serving.reporter
        return [
            Server(other, self.root, Serving(other, timeout, reporter), self.gate)
            for other in every
        ]

    @cached_property
    def bundles(self) -> Bundles:
        """Where its bundles are."""
        own = self.root / own_names.of_instance(self.directory)
        # There is such a directory: then no other instance need be read to know it.
        if own.is_dir():
            return Bundles(self.root, own)
        further = not instances.is_first(self.configuration) and bool(self.others)
        return Bundles(self.root, own if further else self.root)

    def read(self) -> State:
        """Return what it serves now; raises `Error`."""
        return state.read(self.configuration, self.bundles, self.sni_map)
