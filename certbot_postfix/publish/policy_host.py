"""The web server of a domain's MTA-STS policy, RFC 8461, 3.3, asked as by a sender.

Raises `NetworkError`, or `PolicyError` if it serves no policy.
"""

from pathlib import Path

from certbot_postfix.errors import excerpt
from certbot_postfix.formats import mta_sts
from certbot_postfix.formats.policy import PolicyError
from certbot_postfix.system import https
from certbot_postfix.system.https import Bounds

# Below the root of a web site.
PATH = ".well-known/mta-sts.txt"

_BOUNDS = Bounds(mta_sts.LARGEST, seconds=20)  # no redirects: section 3.3


def url(domain: str) -> str:
    """Return where the policy of *domain* is."""
    return f"https://mta-sts.{domain}/{PATH}"


def fetch(domain: str, ca_file: Path | None) -> bytes:
    """Return what is served as the policy of *domain*.

    The server is verified by the CAs in *ca_file*; None means those of the system.
    """
    answer = https.get(url(domain), _BOUNDS, ca_file)
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    if answer.status != 200 or kind.lower() != "text/plain":
        raise PolicyError(
            f"{url(domain)}: the server answers with the status {answer.status} and"
            f" the type {excerpt(kind)}, not with a policy"
        )
    return answer.body
