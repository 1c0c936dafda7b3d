"""Certificates from certbot in the Postfix mail server, deployed and verified.

The map of the house; each wing imports only from those below it:

installer    certbot's calls
cli          the command certbot-postfix
status       what is served, and what is wrong
inbound      which certificate is served to whom
dane         may this key be served yet?
outbound     what mail that is sent must have
publish      what DNS and the web must say of this server
change       how files change, and are restored
postfix      one instance: its parameters, services, maps and programs
formats      what RFCs and others define, parsed and rendered
tls          certificates, handshakes
system       files, programs, locks, signals, time, DNS, HTTPS
interfaces   contracts for what others may implement
command_line what the commands have in common
options      the choices that an administrator has
errors       one family below certbot's PluginError, with a hint
"""

__version__ = "0.2.0"
