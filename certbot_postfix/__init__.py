"""Certificates from certbot in the Postfix mail server, deployed and proven.

The map of the house; each module imports only from those below it:

installer       adapter: certbot's Installer and RenewDeployer
cli             adapter: the command certbot-postfix
checkpoint      certbot's checkpoint in progress
deployment      the use cases both adapters share: plan, deploy, renew
serving         reload a running instance, prove what it shows
transaction     the only writer of live files
postfix         one instance: its programs, its parameters, its state
manager         systemd, where it has started Postfix
listeners       who listens on a port
programs        the one door to other programs
probe           which certificate a service shows
plan            facts in, Plan out; describes itself
rules           TLS parameters, profiles, never weaker
configuration   what is known of an instance; where its services listen
lineage         a lineage of certbot's, read
certificates    Bundle, names, key match, judgement
profiles        the choices that an administrator has
files           atomic replacement; owner, mode
errors          one family below certbot's PluginError, with a hint
"""
