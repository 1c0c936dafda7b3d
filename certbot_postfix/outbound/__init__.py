"""Outbound policies: which TLS the mail that this server sends must have.

commands            certbot-postfix policy ...
install_commands    certbot-postfix policy install and remove
send_only           policies alone: installed, and removed, without a certificate
installed           what was set in main.cf for that
client_level        whether the level of the SMTP client can be raised
update              the table in force: written, refreshed, and in main.cf
next_hops           which next hops a mandatory level would cut off
collect             what is to be in force, by what the sources say
effect              where policies have no effect, or may end too soon
fitness             whether a resolver daemon is fit, and which one is wired in
routes              where mail for a domain goes, and whether a policy counts there
lookup              what Postfix demands for a domain, and what its servers say
dnssec              whether DANE can work here
dane_resolver       whether a domain has DANE, as a client finds out
resolver_daemon     daemons that resolve policies for Postfix
main_cf             what main.cf must say, and what stands against it: decisions
last_refresh        when sources were asked, and what failed then
policy_database     the database of the table certbot_tls_policy
published           what a domain publishes now
policy_file         that table as a file
policy_map          the same as a value
lists, list_state   our source of STARTTLS Everywhere lists, and what it knows of one
mta_sts, mta_sts_lookup  our source of MTA-STS policies, and one look at a domain
learnt              which domains mail is sent to, by the queue and the mail log
mta_sts_cache       what is known of each domain
domain_state        what that means: no policy, in force, failing
progress            what a terminal shows meanwhile
signatures          whether a list is signed
sources, entries    what the administrator wants, who implements it, what they may give

All of it comes from strangers: every field is checked before it is a value, and a value
fits into a line of a table.
"""
