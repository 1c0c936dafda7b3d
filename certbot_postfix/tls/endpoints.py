"""Where SMTP is spoken: an address, and how a client comes there."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address at which a service of master.cf listens for SMTP.

    A client is to come from the address *source*, if there is one.
    """

    service: str
    host: str
    port: int
    implicit: bool
    source: str = ""

    @property
    def name(self) -> str:
        """The first field of its entry in master.cf."""
        return self.service.removesuffix("/inet")

    @property
    def address(self) -> str:
        """Host and port, and where a client comes from."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        client = f" from {self.source}" if self.source else ""
        return f"{host}:{self.port}{client}"

    def __str__(self) -> str:
        name, address = self.name, self.address
        listens = replace(self, source="").address
        return address if name == listens else f"{name} ({address})"
