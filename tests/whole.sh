# The whole suite, with a distribution's own Python, certbot and Postfix: in a root
# directory that may be spoiled, as root.

apt-get install --quiet --quiet --yes --no-install-recommends \
    "$PWD"/python3-certbot-postfix_*.deb > /dev/null
# As `make test` runs it, where PYTEST_ADDOPTS does not say otherwise.
SPARE_IMPORTS=yes PYTEST_ADDOPTS="--numprocesses 6 --dist load --maxschedchunk 1 $PYTEST_ADDOPTS" \
    python3 -m pytest -p no:cacheprovider
