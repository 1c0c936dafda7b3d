"""certbot-postfix as a Python package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

_PACKAGE = Path(__file__).with_name("certbot_postfix") / "__init__.py"
_VERSION = re.findall(
    r'^__version__ = "(.+)"$', _PACKAGE.read_text("utf-8"), re.MULTILINE
)

setup(
    name="certbot-postfix",
    version=_VERSION[0],
    description="Certbot plugin that installs certificates in Postfix",
    long_description=Path(__file__).with_name("README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    author="The certbot-postfix developers",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["certbot_postfix*"]),
    package_data={"certbot_postfix": ["py.typed", "outbound/providers.txt"]},
    install_requires=[
        # certbot and acme are released together, with the same number, and certbot's
        # own plugins require both (https://github.com/certbot/certbot/issues/8761).
        "acme>=2.1",
        "certbot>=2.1",
        "configobj>=5.0.6",
        "cryptography>=38",
        "dnspython>=2.2",
        "idna>=3.3",
        "zope.interface>=5.5",
    ],
    extras_require={
        "test": [
            "ansible-core",
            "hypothesis",
            "prometheus_client",
            "pytest",
            "pytest-xdist>=3.7",
            "sphinx>=5.3,<10",
        ],
        "dev": [
            "build",
            "codespell",
            "cyclonedx-bom",
            "mypy",
            "proselint",
            "ruff",
            "twine",
        ],
        "fuzz": ["atheris"],
    },
    entry_points={
        "certbot.plugins": ["postfix = certbot_postfix.installer:Installer"],
        "certbot_postfix.policy_sources": [
            "lists = certbot_postfix.outbound.lists:sources",
            "mta_sts = certbot_postfix.outbound.mta_sts:sources",
        ],
        "console_scripts": ["certbot-postfix = certbot_postfix.cli:main"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Environment :: Plugins",
        "Intended Audience :: System Administrators",
        "Natural Language :: English",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Communications :: Email :: Mail Transport Agents",
        "Topic :: Security :: Cryptography",
        "Topic :: System :: Installation/Setup",
        "Topic :: System :: Systems Administration",
        "Topic :: Utilities",
        "Typing :: Typed",
    ],
)
