# The tests of a distribution: in a root directory that may be spoiled, as root.

PACKAGE=$(echo "$PWD"/python3-certbot-postfix_*.deb)
export PACKAGE FIRST=/srv/first.deb PYTHONDONTWRITEBYTECODE=1
python3 -m pytest -p no:cacheprovider tests/test_distribution.py

apt-get install --quiet --quiet --yes --no-install-recommends "$PACKAGE" > /dev/null
AUTOPKGTEST_TMP=$(mktemp -d) debian/tests/story
