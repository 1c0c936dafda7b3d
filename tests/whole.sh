# The whole suite, with a distribution's own Python, certbot and Postfix: in a root
# directory that may be spoiled, as root.

apt-get install --quiet --quiet --yes --no-install-recommends \
    "$PWD"/python3-certbot-postfix_*.deb > /dev/null
# One by one: before 3.7, pytest-xdist does not keep the order of files, as `make test` has
# it.  PYTEST_ADDOPTS may say otherwise.
SPARE_IMPORTS=yes PYTEST_ADDOPTS="--numprocesses 6 --dist load --maxschedchunk 1 $PYTEST_ADDOPTS" \
    python3 -m pytest -p no:cacheprovider
