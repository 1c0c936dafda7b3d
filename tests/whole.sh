# The whole suite, with a distribution's own Python, certbot and Postfix: in a root
# directory that may be spoiled, as root.

apt-get install --quiet --quiet --yes --no-install-recommends \
    "$PWD"/python3-certbot-postfix_*.deb > /dev/null
PYTHONDONTWRITEBYTECODE=1 python3 -m pytest -p no:cacheprovider --numprocesses auto
