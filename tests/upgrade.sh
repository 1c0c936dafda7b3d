# The tests of an upgrade: in the root directory of the older distribution, then in that
# of the newer, which may both be spoiled, as root.

apt-get install --quiet --quiet --yes --no-install-recommends \
    "$PWD"/python3-certbot-postfix_*.deb > /dev/null
EXCHANGE=/srv/exchange PYTHONDONTWRITEBYTECODE=1 \
    python3 -m pytest -p no:cacheprovider tests/test_upgrade.py
