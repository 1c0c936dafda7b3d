"""Tests of certbot-postfix; what they run against is in `tests.lab`."""
