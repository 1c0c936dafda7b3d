"""What was verified is said in a sentence, or as a block of lines."""

from datetime import datetime, timezone

import pytest

from certbot_postfix.tls import summary
from certbot_postfix.tls.certificates import UNKNOWN, Certificate
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.hello import Offer
from certbot_postfix.tls.probe import Question

END = datetime(2027, 2, 23, tzinfo=timezone.utc)
SMTP = Endpoint("smtp/inet", "192.0.2.1", 25, implicit=False)
SIX = Endpoint("smtp/inet", "2001:db8::1", 25, implicit=False)
SUBMISSION = Endpoint("submission/inet", "192.0.2.1", 587, implicit=False)


def leaf(*names: str, key: str = "ECDSA", end: datetime = END) -> Certificate:
    return Certificate(
        b"".join(each.encode() for each in names) + key.encode(),
        f"CN={min(names, default='nobody')}",
        "CN=CA",
        frozenset(names),
        b"",
        key,
        END,
        end,
    )


MX = leaf("mx.example.org")
SHOP = leaf("shop.example.net", "www.shop.example.net", "a.net", key="RSA")


def test_a_block_has_a_line_for_each_certificate():
    asked = [Question(each, None, (MX,)) for each in (SMTP, SIX, SUBMISSION)]
    names = sorted(SHOP.names)
    asked += [Question(SMTP, each, (SHOP,)) for each in names]
    asked += [Question(SMTP, "mx.example.org", (MX,))]

    assert "\n".join(summary.block(asked)) == (
        "Verified on 3 listeners (smtp and submission; IPv4 and IPv6):\n"
        "  mx.example.org    ECDSA  expires 2027-02-23  default\n"
        "  a.net and 2 more  RSA    expires 2027-02-23  SNI a.net, shop.example.net and"
        " www.shop.example.net"
    )
    assert summary.sentence(asked) == (
        "Verified on 3 listeners (smtp and submission; IPv4 and IPv6): mx.example.org"
        " (ECDSA, expires 2027-02-23, default); a.net and 2 more (RSA, expires"
        " 2027-02-23, SNI a.net, shop.example.net and www.shop.example.net)."
    )


@pytest.mark.parametrize(
    ("asked", "end"),
    [
        pytest.param(
            [
                Question(SMTP, None, (MX,)),
                Question(SUBMISSION, None, (leaf("own.example.org"),)),
            ],
            "own.example.org (ECDSA, expires 2027-02-23, default on submission).",
            id="a service with another certificate",
        ),
        pytest.param(
            [Question(SMTP, None, (MX, leaf("mx.example.org", key="RSA")))],
            "mx.example.org (ECDSA or RSA, expires 2027-02-23, default).",
            id="a pair",
        ),
        pytest.param(
            [Question(SMTP, None, (leaf(key="", end=UNKNOWN),))],
            "CN=nobody (unknown key, unknown expiry, default).",
            id="hardly readable",
        ),
        pytest.param([], "so there was nothing to verify.", id="nothing"),
    ],
)
def test_a_sentence_says_what_is_served_where(asked, end):
    assert summary.sentence(asked).endswith(end)


@pytest.mark.parametrize(
    ("offers", "words"),
    [
        pytest.param(
            [(SMTP, Offer.OLD_PROTOCOLS), (SMTP, Offer.WEAK_CIPHERS)],
            "Verified: smtp (192.0.2.1:25) refuses TLS 1.1 and older and weak ciphers.",
            id="one service",
        ),
        pytest.param(
            [(SMTP, Offer.WEAK_CIPHERS), (SUBMISSION, Offer.WEAK_CIPHERS)],
            "Verified: smtp (192.0.2.1:25) and submission (192.0.2.1:587) refuse weak"
            " ciphers.",
            id="two services",
        ),
        pytest.param(
            [(SMTP, Offer.WEAK_CIPHERS), (SUBMISSION, Offer.OLD_PROTOCOLS)],
            "Verified: smtp (192.0.2.1:25) refuses weak ciphers; submission"
            " (192.0.2.1:587) refuses TLS 1.1 and older.",
            id="each its own",
        ),
    ],
)
def test_what_services_refuse_is_said_by_those_that_refuse_the_same(offers, words):
    refused = [Question(endpoint, None, offer=offer) for endpoint, offer in offers]

    assert summary.refusals(refused) == words


def test_an_address_that_was_asked_from_two_places_is_one_listener():
    stranger = Endpoint(
        "smtp/inet", "192.0.2.1", 25, implicit=False, source="192.0.2.9"
    )
    asked = [Question(each, None, (MX,)) for each in (SMTP, stranger)]

    assert summary.sentence(asked).startswith(
        "Verified on 1 listener (smtp; IPv4; from 192.0.2.9): "
    )
