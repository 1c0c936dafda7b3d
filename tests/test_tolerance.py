"""What a failure after a change means is judged by what was there before."""

import pytest

from certbot_postfix.errors import (
    OtherCertificateError,
    ProofError,
    RefusedError,
    UnansweredError,
)
from certbot_postfix.postfix import tolerance
from certbot_postfix.tls.baseline import Baseline
from certbot_postfix.tls.endpoints import Endpoint
from certbot_postfix.tls.probe import Question
from certbot_postfix.tls.verification import Failure

ENDPOINT = Endpoint("smtp/inet", "127.0.0.1", 25, implicit=False)
SILENT = UnansweredError("timed out", reason="timed out")
BROKEN = ProofError("454 no TLS", reason="454 no TLS")
REFUSED = RefusedError("554 no", reason="554 no")
OTHER = OtherCertificateError("another", reason="another")


def known(error: ProofError | None) -> Baseline:
    return Baseline({str(ENDPOINT): error})


@pytest.mark.parametrize(
    ("error", "before", "kind"),
    [
        pytest.param(OTHER, known(SILENT), "new", id="wrong certificate"),
        pytest.param(SILENT, known(None), "new", id="it answered before"),
        pytest.param(SILENT, known(BROKEN), "new", id="it greeted before"),
        pytest.param(SILENT, known(SILENT), "dead", id="it was silent before, too"),
        pytest.param(SILENT, None, "dead", id="nobody knows"),
        pytest.param(BROKEN, known(None), "unverified", id="no TLS"),
        pytest.param(REFUSED, None, "unverified", id="this machine is rejected"),
    ],
)
def test_a_failure_is_new_if_the_change_can_have_caused_it(error, before, kind):
    failure = Failure(Question(ENDPOINT, None), error)

    judged = tolerance.judge([failure], before)

    assert {name: getattr(judged, name) for name in ("new", "dead", "unverified")} == {
        "new": [],
        "dead": [],
        "unverified": [],
        kind: [failure],
    }
