"""What others may implement, as contracts of zope.interface.

An entry point of the group ``certbot_postfix.policy_sources`` is a callable that takes
an `outbound.sources.Context`, and returns objects which provide `IPolicySource`; none,
if nothing in the settings is meant for it.

An installed source runs as root, on each run of certbot that has to do with policies.
What it gives is checked as that of a stranger: one entry that is not valid, and nothing
of what it gives counts, whatever it raises (`SystemExit`, too) is one message, and what
it gave before stays in force.  It must not catch `KeyboardInterrupt`, nor
`errors.SignalError`, by which the process is asked to end.
"""

from zope.interface import Attribute, Interface

# The argument self is not written here, as is the custom with zope.interface.
# ruff: noqa: N805


class IPolicySource(Interface):
    """Somewhere that policies of recipient domains come from."""

    label = Attribute(
        "What it is, in one line of printable ASCII, the same each time, and no other"
        " source's: a path, or an address.  The table has it beside each entry."
    )

    def due(now):
        """Whether `refresh` has something to do, at the `datetime` *now*.

        `certbot renew` asks this for each certificate, so it costs next to nothing.
        """

    def refresh(now):
        """Ask whoever publishes policies, and keep the answer.

        Raises `errors.Error` where that failed; what was kept is kept.
        """

    def policies(now):
        """Return what is kept, and not expired: an iterable of `formats.policy.Entry`.

        Domains are A-labels in lower case, and *expires* is an aware time.

        Nobody is asked.  Raises `errors.Error` if it cannot be read.
        """
