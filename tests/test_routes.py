"""Where mail goes by another route, policies do not count, and all that look say so."""

import pytest

from tests.lab.machine import wait_until
from tests.test_outbound_mail import STRIPPED, World, enforced, stripped, world
from tests.test_resolver_daemons import findings, policy, policy_test

__all__ = ["enforced", "world"]  # fixtures

DOMAIN = "enforce.insecure"
INSTEAD = "sends mail to [127.0.0.1], and Postfix looks up a policy for that instead"

pytestmark = pytest.mark.postfix


def table(world: World, text: str) -> str:
    path = world.sender.config_dir / "routes"
    path.write_text(f"{text}\n")
    return f"texthash:{path}"


def transport(text: str):
    return lambda world: {"transport_maps": table(world, text)}


def pattern(text: str):
    def change(world: World) -> dict[str, str]:
        return {"transport_maps": table(world, text).replace("texthash:", "regexp:", 1)}

    return change


def overridden(world: World) -> dict[str, str]:
    world.sender.postconf("-P", "smtp/unix/smtp_tls_policy_maps=")
    return {}


def access_with_filter(world: World) -> dict[str, str]:
    checks = table(world, "example.org FILTER smtp:[127.0.0.1]:10025")
    return {"smtpd_sender_restrictions": f"check_sender_access {checks}"}


def filter_of_a_service(world: World) -> dict[str, str]:
    world.sender.postconf("-P", "pickup/unix/content_filter=smtp:[127.0.0.1]:10025")
    return {}


ROUTES = [
    pytest.param(lambda _: {"default_transport": "smtp:[127.0.0.1]"}, INSTEAD),
    pytest.param(lambda _: {"relayhost": "[127.0.0.1]"}, INSTEAD),
    pytest.param(transport(f"{DOMAIN} smtp:[127.0.0.1]"), INSTEAD),
    pytest.param(transport(".insecure :[127.0.0.1]"), INSTEAD),
    pytest.param(transport("* relay:[127.0.0.1]"), INSTEAD),
    pytest.param(pattern(r"/@enforce\.insecure$/ smtp:[127.0.0.1]"), INSTEAD),
    pytest.param(transport(f"{DOMAIN} lmtp:"), "lmtp/unix, which follows no policies"),
    pytest.param(
        lambda _: {"relay_domains": DOMAIN, "relay_transport": "smtp:[127.0.0.1]"},
        "relay_transport sends mail to [127.0.0.1]",
    ),
    pytest.param(overridden, "master.cf overrides smtp_tls_policy_maps for smtp/unix"),
    pytest.param(
        lambda world: {
            "sender_dependent_relayhost_maps": table(world, "a@b.org [127.0.0.1]")
        },
        "where it sends a sender's mail elsewhere",
    ),
    pytest.param(
        lambda _: {"sender_dependent_default_transport_maps": "static:smtp:[a.org]"},
        "where it sends a sender's mail elsewhere",
    ),
    pytest.param(
        lambda _: {"smtp_fallback_relay": "[127.0.0.1]"},
        "smtp_fallback_relay = [127.0.0.1]: mail that no server",
    ),
    pytest.param(
        lambda _: {"content_filter": "smtp:[127.0.0.1]:10025"}, "is a content filter"
    ),
    pytest.param(filter_of_a_service, "smtp:[127.0.0.1]:10025 is a content filter"),
    pytest.param(access_with_filter, "smtp:[127.0.0.1]:10025 is a content filter"),
    pytest.param(
        lambda _: {
            "smtpd_client_restrictions": "check_client_access"
            " static:{FILTER smtp:[127.0.0.1]:10025}"
        },
        "smtp:[127.0.0.1]:10025 is a content filter",
    ),
]


@pytest.mark.parametrize(("route", "why"), ROUTES)
def test_a_route_by_which_a_policy_does_not_count_is_told(world, route, why):
    world.write_list(enforce_insecure={"mode": "enforce", "mxs": ["mx.org"]})
    if parameters := route(world):
        world.sender.set(**parameters)

    assert why in " ".join(
        world.install("--postfix-policy-list", str(world.list)).split()
    )

    status, told = policy(world, "show")
    assert (status, why in told) == (3, True)
    assert why in findings(world)["policies-without-effect"]
    status, told = policy_test(world, DOMAIN)
    assert (status, why in told) == (3, True)


@pytest.mark.parametrize(
    "route",
    [
        lambda _: {},
        transport(f"{DOMAIN} smtp:"),
        transport(f"{DOMAIN} :"),
        transport(f"{DOMAIN} smtp:{DOMAIN.upper()}"),
        transport("other.org smtp:[127.0.0.1]"),
        pattern(r"/^enforce\.insecure$/ smtp:[127.0.0.1]"),
        lambda world: {
            "relayhost": "[127.0.0.1]",
            **transport(f"{DOMAIN} relay:")(world),
        },
    ],
)
def test_a_route_to_the_servers_of_the_domain_is_not_told(world, route):
    world.write_list(enforce_insecure={"mode": "enforce", "mxs": ["mx.org"]})
    if parameters := route(world):
        world.sender.set(**parameters)
    world.install("--postfix-policy-list", str(world.list))

    assert "policies-without-effect" not in findings(world)
    status, told = policy_test(world, DOMAIN)
    assert (status, "secure" in told) == (0, True)


def test_what_counts_for_the_next_hop_is_what_policy_test_prints(world):
    own = table(world, "[127.0.0.1] encrypt")
    world.sender.set(relayhost="[127.0.0.1]", smtp_tls_policy_maps=own)

    _, told = policy_test(world, DOMAIN)

    assert f"{own} has for [127.0.0.1]: encrypt" in told


def test_mail_that_waits_for_its_policy_leaves_by_the_fallback_relay(enforced):
    """So that is reported: it is what Postfix does."""
    stripped(enforced)
    enforced.sender.set(smtp_fallback_relay=f"[{STRIPPED}]")
    enforced.sender.reload()

    mark = enforced.send(f"you@{DOMAIN}")

    wait_until(lambda: mark in " ".join(enforced.right.arrived()), "it leaves in clear")
