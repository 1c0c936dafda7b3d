# The tests of an upgrade: in the root directory of the oldest distribution, then in those
# of the newer, which may all be spoiled, as root.

apt-get install --quiet --quiet --yes --no-install-recommends \
    "$PWD"/python3-certbot-postfix_*.deb > /dev/null
EXCHANGE=/srv/exchange PYTHONDONTWRITEBYTECODE=1 \
    python3 -m pytest -p no:cacheprovider tests/test_upgrade.py
