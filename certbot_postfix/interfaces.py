"""What others may implement, as contracts of zope.interface.

A third party's code runs as root.  Whatever it raises (`SystemExit`, too) is one
message.  It must not catch `KeyboardInterrupt`, nor `errors.SignalError`, by which the
process is asked to end.

An entry point of the group ``certbot_postfix.policy_sources`` is a callable that takes
an `outbound.sources.Context`, and returns objects which provide `IPolicySource`; none,
if nothing in the settings is meant for it.

An installed source runs on each run of certbot that has to do with policies.  What it
gives is checked: one entry that is not valid, and nothing of what it gives counts, and
what it gave before stays in force.

An entry point NAME of the group ``certbot_postfix.record_publishers`` is a callable
that takes a text, and returns an object which provides `IRecordPublisher`.  It is
called where ``--postfix-tlsa-publisher`` says ``NAME:TEXT``, or ``NAME`` (then the text
is empty); TEXT may be the path of a file with credentials.
"""

from zope.interface import Attribute, Interface

# The argument self is not written here, as is the custom with zope.interface.
# ruff: noqa: N805


class IPolicySource(Interface):
    """Somewhere that policies of recipient domains come from.

    Each call, including that which creates the object, runs outside the main thread and
    counts as failed after five minutes; the thread then goes on until the process ends.
    """

    label = Attribute(
        "What it is, in one line of printable ASCII, the same each time, and no other"
        " source's: a path, or an address.  The table has it beside each entry."
    )

    def due(now):
        """Whether `refresh` has something to do, at the `datetime` *now*.

        Every `certbot renew` calls this, so it must cost next to nothing.
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


class IRecordPublisher(Interface):
    """Some way in which records get into DNS.

    It is never believed: what counts is what the authoritative servers answer.

    Each call, including that which creates the object, runs outside the main thread and
    counts as failed after two minutes; the thread then goes on until the process ends.
    """

    label = Attribute("What it is, in one line of printable ASCII, without a secret.")

    def add(record):
        """Have the records of that name and type include *record*, and keep the others.

        *record* is a `formats.resource_record.ResourceRecord` of any type.  If it is
        there, nothing is to be done.  Others may publish records of the same name and
        type at the same time, so those must never be replaced as a whole.

        Raises `errors.Error` if that failed.
        """

    def remove(record, observed):
        """Remove *record*, if it is there, and keep the others of that name and type.

        *observed* is a frozenset of the data of all of them, *record*'s as well, as the
        servers answered before this was decided.  If there are others by now, nothing
        is to be removed, and `errors.Error` is to be raised; a publisher that cannot
        compare them removes *record* alone.
        """
