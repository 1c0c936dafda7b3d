"""What others may implement, as contracts of zope.interface.

An entry point of the group ``certbot_postfix.policy_sources`` is a callable that takes
a `policy.sources.Context` and returns objects which provide `IPolicySource`; none, if
nothing in the settings is meant for it.
"""

from zope.interface import Attribute, Interface

# The argument self is not written here, as is the custom with zope.interface.
# ruff: noqa: N805


class IPolicySource(Interface):
    """Somewhere that policies of recipient domains come from."""

    label = Attribute(
        "What it is, in one line of printable ASCII, and the same each time: a path, or"
        " an address.  The table has it beside each of the entries."
    )

    def due(now):
        """Whether `refresh` has something to do, at the `datetime` *now*.

        `certbot renew` asks this for each certificate, so it costs next to nothing.
        """

    def refresh(now):
        """Ask whoever publishes policies, and keep the answer.

        Raises `policy.model.PolicyError` where that failed; what was kept is kept.
        """

    def policies(now):
        """Return what is kept, and not expired, as an iterable of `model.Entry`.

        Nobody is asked.  Raises `policy.model.PolicyError` if it cannot be read.
        """
