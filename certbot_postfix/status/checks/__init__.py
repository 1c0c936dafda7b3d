"""What is wrong: facts in, findings out.

services        do they answer, and present a certificate?
certificates    are those in use valid, renewable, and for their names?
renewals        have renewed certificates reached Postfix?
files           can Postfix read keys and certificates, and nobody else?
parameters      do those of main.cf and master.cf take effect?
publication     does what DNS and the web say of this host contradict it?
policies        are outbound TLS policies in effect, and up to date?
"""
