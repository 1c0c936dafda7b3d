"""Outbound policies: which TLS the mail that this server sends must have.

`model` is what all sources give; `starttls_everywhere` and `mta_sts` read what others
publish.  All of it comes from strangers: every field is checked before it is a value,
and a value fits into a line of a table.
"""
