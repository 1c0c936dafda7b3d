"""Certificates from certbot in the Postfix mail server, deployed and proven.

The map of the house; each module imports only from those below it:

installer       adapter: certbot's Installer and RenewDeployer
cli             adapter: the command certbot-postfix
status          what is served, and what is wrong
deployment      the use cases both adapters share: plan, deploy, undo
policy          outbound policies: sources, table, what main.cf says of them
removal         taking a lineage out of Postfix
renewal         renewed certificates into service, or back
inventory       what Postfix uses of certbot's, as it is now
serving         reload a running instance, prove what it shows
transaction     the only writer of live files, but for the table of names
tables          the table of names on disk, text and database
databases       what postmap makes of a table, built beside and renamed
instances       the Postfix instances of one machine
postfix         one instance: its programs, its parameters, its state
manager         systemd, where it has started Postfix
probe           which certificate a service shows
programs        the one door to other programs
promises        what must be shown to whom
plan            facts in, Plan out; describes itself
rules           TLS parameters, profiles, never weaker
placement       by default, beside the default, or by name
lineage         a lineage of certbot's, read
purposes        what a certificate may be used for
maplist         a list of tables, as a parameter has it
sni             which name gets which bundle: the table as a value
configuration   what is known of an instance; where its services listen
certificates    Bundle, names, key match, judgement
interfaces      contracts for what others may implement
hostnames       names of hosts and domains
profiles        the choices that an administrator has
checkpoint      certbot's checkpoint in progress
lock            one at a time
signals         what becomes of work when it is told to end
listeners       who listens on a port
files           atomic replacement; owner, mode
errors          one family below certbot's PluginError, with a hint
"""
