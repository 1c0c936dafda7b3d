# What testssl.sh finds with a distribution's own Postfix: in a root directory that may be
# spoiled, as root.

apt-get install --quiet --quiet --yes --no-install-recommends \
    "$PWD"/python3-certbot-postfix_*.deb > /dev/null
PYTHONDONTWRITEBYTECODE=1 python3 -m tests.internet_nl > /srv/exchange/internet-nl.inc
