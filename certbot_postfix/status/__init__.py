"""What every service shows, and what is wrong: ``certbot-postfix status``.

Facts are collected, then concluded from, then rendered; each module imports only from
those below it:

examination   collects the facts, until its deadline
interview     asks the services, side by side
inspection    reads the files, as far as this user may
deadline      a time until which something must be done
monitoring    the report as JSON, and as metrics of Prometheus
report        the report as a table for people
conclusion    facts in, report out
diagnosis     what is wrong with services and certificates
freshness     what is in use although there is something newer
settings      what is wrong with parameters
keyfiles      what is wrong with files of keys and certificates
findings      what is wrong, as a value
evidence      the facts, as values
nametables    anybody's table of names, read
"""
