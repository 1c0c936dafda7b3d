"""Outbound policies: which TLS the mail that this server sends must have.

commands            certbot-postfix policy ...
lookup              what Postfix demands for a domain, and what its servers say
outbound            the table is written, main.cf names it
gathering           sources asked; what is to be in force
resolver            whether DANE can work here
service             daemons that resolve policies for Postfix
wiring              what main.cf must say, and what stands against: decisions
table               the table certbot_tls_policy, as a value
lists, recipients   our two sources: lists, and MTA-STS
cache, signatures   what is kept of MTA-STS; whether a list is signed
sources, entries    what the administrator wants, who implements it, what they may give
https, records      HTTPS and DNS, with bounds
starttls_everywhere, mta_sts   what others publish, read
model               what all sources give

All of it comes from strangers: every field is checked before it is a value, and a value
fits into a line of a table.
"""
