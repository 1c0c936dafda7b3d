"""What every service serves, and what is wrong: ``certbot-postfix status``.

Facts are collected, checked, and reported.  From the top; each module imports only from
those below it:

commands          parse, call, print
checkpoints       what a rollback would undo, a command of its own
collect           the facts about an instance, until a deadline
probe_services    which certificates the services present, by handshakes
read_dns          what DNS says of this host, where that is at stake
read_policies     the outbound TLS policy maps, queried
read_files        the files of keys and certificates, as far as this user may
nagios            the report as a line and a status of Nagios
monitoring        the report as JSON, and as metrics of Prometheus
terminal          the report as a table for people
report            facts in, report out
checks            what is wrong: one module for each subject, facts in and findings out
findings          what is wrong, as a value
facts             what is known, as values
"""
