"""What services must refuse with the profile internet-nl, and what must still work.

Only a handshake says so: `postfix check` is content with a tls_config_file that is not
there, and OpenSSL with a list of which it knows not all.  Pure.
"""

from collections.abc import Collection, Iterator

from certbot_postfix.postfix import screening, services
from certbot_postfix.postfix.configuration import Configuration, Service
from certbot_postfix.postfix.profiles import intermediate, internet_nl
from certbot_postfix.system.listeners import is_local
from certbot_postfix.tls.certificates import Certificate
from certbot_postfix.tls.hello import Offer
from certbot_postfix.tls.probe import BY_CIPHER, Question

_PROTOCOLS = ("smtpd_tls_protocols", "smtpd_tls_mandatory_protocols")


def questions(
    configuration: Configuration, chain: Collection[Certificate]
) -> Iterator[Question]:
    """Yield each offer to be refused, and TLS 1.2 for each key in the default *chain*.

    An override in master.cf, or what is kept in main.cf, is not demanded otherwise.
    """
    entries = {str(service): service for service in configuration.services}
    default = services.endpoints(configuration)[0]
    others = [
        *services.with_own_certificate(configuration),
        *screening.strangers(configuration),
    ]
    for endpoint in (*default, *others):
        if not is_local(endpoint.host):
            continue
        values = _Values(configuration, entries[endpoint.service])
        for offer in values.refused():
            yield Question(endpoint, None, offer=offer)
        for leaf in chain if endpoint in default and values.have_tls12() else ():
            if leaf.key_type in BY_CIPHER:
                yield Question(endpoint, None, (leaf,), leaf.key_type)


class _Values:
    """What is in force for the clients of *service*.

    Those of postscreen(8) may be served by two other programs.
    """

    def __init__(self, configuration: Configuration, service: Service) -> None:
        self._configuration = configuration
        self._services = [service]
        if service.command == "postscreen":
            self._services.append(services.presenter(configuration, service))
            self._services += (
                service
                for service in configuration.services
                if service.command == screening.PROXY
            )

    def refused(self) -> Iterator[Offer]:
        """Yield what must be refused."""
        protocols = [value for name in _PROTOCOLS for value in self._of(name)]
        if all(map(intermediate.only_modern, protocols)):
            yield Offer.OLD_PROTOCOLS
        if all(map(internet_nl.excludes, self._of(internet_nl.EXCLUSIONS))):
            yield Offer.WEAK_CIPHERS
        curves, others = map(self._of, (intermediate.CURVES, internet_nl.FINITE_FIELDS))
        if all(map(internet_nl.without_finite_fields, curves)) and not any(others):
            yield Offer.FINITE_FIELDS
        named = internet_nl.names_file(self._configuration)
        if named and len(self._of(internet_nl.CONFIG_FILE)) == 1:
            yield Offer.WEAK_SIGNATURES

    def have_tls12(self) -> bool:
        """Whether clients may use TLS 1.2."""
        values = [value for name in _PROTOCOLS for value in self._of(name)]
        return all(
            "TLSv1.2" in (intermediate.protocols(value) or ()) for value in values
        )

    def _of(self, name: str) -> set[str]:
        """Return all values that the parameter *name* of smtpd has for them."""
        of_their_own = {
            name.replace("smtpd", service.command, 1) for service in self._services
        }
        return {
            self._configuration.value(parameter, service)
            for parameter in {name, *(of_their_own & self._configuration.values.keys())}
            for service in self._services
        }
