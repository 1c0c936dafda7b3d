"""Where mail goes by another route, policies do not count, and all that look say so."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbot_postfix.outbound import routes
from certbot_postfix.outbound.routes import Route
from certbot_postfix.postfix.configuration import Configuration, Service
from tests.lab.machine import wait_until
from tests.test_nexthops import client
from tests.test_outbound_mail import RIGHT, STRIPPED, World, enforced, stripped, world
from tests.test_resolver_daemons import findings, policy, policy_test
from tests.test_rules import configured

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


def class_of_a_service(world: World) -> dict[str, str]:
    services = world.sender.postconf("-M").splitlines()
    smtpd = next(line.split()[0] for line in services if line.endswith("smtpd"))
    for value in (
        "smtpd_restriction_classes=strangers",
        f"strangers=check_client_access,{table(world, '[::1] FILTER smtp:[a.org]')}",
    ):
        world.sender.postconf("-P", f"{smtpd}/inet/{value}")
    return {}


ROUTES = [
    pytest.param(
        lambda _: {"default_transport": "smtp:[127.0.0.1]"},
        INSTEAD,
        id="default_transport",
    ),
    pytest.param(lambda _: {"relayhost": "[127.0.0.1]"}, INSTEAD, id="relayhost"),
    pytest.param(
        transport(f"{DOMAIN} smtp:[127.0.0.1]"), INSTEAD, id="transport_maps, domain"
    ),
    pytest.param(
        transport(".insecure :[127.0.0.1]"), INSTEAD, id="transport_maps, parent"
    ),
    pytest.param(transport("* relay:[127.0.0.1]"), INSTEAD, id="transport_maps, star"),
    pytest.param(
        pattern(r"/@enforce\.insecure$/ smtp:[127.0.0.1]"),
        INSTEAD,
        id="transport_maps, pattern",
    ),
    pytest.param(
        transport(f"{DOMAIN} lmtp:"),
        "lmtp/unix, which follows no policies",
        id="transport_maps, lmtp",
    ),
    pytest.param(
        lambda _: {"relay_domains": DOMAIN, "relay_transport": "smtp:[127.0.0.1]"},
        "relay_transport sends mail to [127.0.0.1]",
        id="relay_transport",
    ),
    pytest.param(
        lambda world: {
            "relay_domains": table(world, f"{DOMAIN} here"),
            "relay_transport": "smtp:[127.0.0.1]",
        },
        "relay_transport sends mail to [127.0.0.1]",
        id="relay_domains, a table",
    ),
    pytest.param(
        overridden,
        "master.cf overrides smtp_tls_policy_maps for smtp/unix",
        id="override",
    ),
    pytest.param(
        lambda world: {
            "sender_dependent_relayhost_maps": table(world, "a@b.org [127.0.0.1]")
        },
        "where it sends a sender's mail elsewhere",
        id="relayhost_maps",
    ),
    pytest.param(
        lambda _: {"sender_dependent_default_transport_maps": "static:smtp:[a.org]"},
        "where it sends a sender's mail elsewhere",
        id="default_transport_maps",
    ),
    pytest.param(
        lambda _: {"smtp_fallback_relay": "[127.0.0.1]"},
        "smtp_fallback_relay = [127.0.0.1]: mail that no server",
        id="smtp_fallback_relay",
    ),
    pytest.param(
        lambda _: {"content_filter": "smtp:[127.0.0.1]:10025"},
        "is a content filter",
        id="content_filter",
    ),
    pytest.param(
        filter_of_a_service,
        "smtp:[127.0.0.1]:10025 is a content filter",
        id="content_filter of a service",
    ),
    pytest.param(
        access_with_filter,
        "smtp:[127.0.0.1]:10025 is a content filter",
        id="FILTER in a table",
    ),
    pytest.param(
        class_of_a_service,
        "smtp:[a.org] is a content filter",
        id="FILTER in a class of a service",
    ),
    pytest.param(
        lambda _: {
            "smtpd_client_restrictions": "check_client_access"
            " static:{FILTER smtp:[127.0.0.1]:10025}"
        },
        "smtp:[127.0.0.1]:10025 is a content filter",
        id="FILTER static",
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


TO_THE_DOMAIN = [
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
]


@pytest.mark.parametrize("route", TO_THE_DOMAIN)
def test_a_route_to_the_servers_of_the_domain_is_not_told(world, route):
    world.write_list(enforce_insecure={"mode": "enforce", "mxs": ["mx.org"]})
    if parameters := route(world):
        world.sender.set(**parameters)
    world.install("--postfix-policy-list", str(world.list))

    assert "policies-without-effect" not in findings(world)
    status, told = policy_test(world, DOMAIN)
    assert (status, "secure" in told) == (0, True)


def sent_by(world: World, route) -> str:
    """Send a message by *route* to a domain whose policy no server fits."""
    world.network.publish(DOMAIN, f"@ MX 10 mx.{DOMAIN}.", f"mx A {RIGHT}")
    world.write_list(enforce_insecure={"mode": "enforce", "mxs": ["mx.org"]})
    for port in (25, 10025):
        world.network.serve("strip", RIGHT, address="127.0.0.1", port=port)
    # Else it would take what listens there for itself.
    world.network.must("ip", "address", "add", "127.0.0.9/32", "dev", "lo")
    world.sender.set(inet_interfaces="127.0.0.9", **route(world))
    world.install("--postfix-policy-list", str(world.list))
    world.sender.start()
    return world.send(f"you@{DOMAIN}")


# Those by which mail of anybody leaves, and to what listens here.
_LEAVES = {
    *("default_transport", "relayhost", "relay_transport", "relay_domains, a table"),
    *("transport_maps, domain", "transport_maps, parent", "transport_maps, star"),
    *("transport_maps, pattern", "override", "smtp_fallback_relay"),
    *("content_filter", "content_filter of a service"),
}


@pytest.mark.soak
@pytest.mark.parametrize(
    "route", [each.values[0] for each in ROUTES if each.id in _LEAVES]
)
def test_by_a_route_that_is_told_mail_leaves_without_its_policy(world, route):
    world.arrives(sent_by(world, route))


@pytest.mark.soak
@pytest.mark.parametrize("route", TO_THE_DOMAIN)
def test_by_a_route_that_is_not_told_no_mail_leaves_without_its_policy(world, route):
    sent_by(world, route)

    assert "Server certificate not verified" in world.sender.deferred(f"you@{DOMAIN}")


def test_a_route_for_the_domain_in_utf8_is_told_as_well(world):
    world.listed["xn--bcher-kva.insecure"] = {"mode": "enforce", "mxs": ["mx.org"]}
    world.write_list()
    route = table(world, "b\u00fccher.insecure smtp:[127.0.0.1]")
    world.sender.set(transport_maps=route)
    world.install("--postfix-policy-list", str(world.list))

    _, told = policy(world, "show")

    said = f"policies for xn--bcher-kva.insecure have no effect: {route} in"
    assert said in " ".join(told.split())


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


# The decision itself

HOP = "[127.0.0.1]:10025"
PATH = Path("/etc/postfix/certbot_tls_policy")


def configuration(*services: Service, **explicit: str) -> Configuration:
    usual = {"default_transport": "smtp", "relay_transport": "relay"}
    clients = (client("smtp"), client("relay"), *services)
    return configured({**usual, **explicit}, services=clients)


def told(found: Configuration, *domains: str) -> list[str]:
    return routes.complaints(found, PATH, domains or [DOMAIN], lambda *_: {})


@pytest.mark.parametrize(
    "place",
    [
        "header_checks",
        "mime_header_checks",
        "nested_header_checks",
        "body_checks",
        "milter_header_checks",
        *(
            f"smtpd_{when}_restrictions"
            for when in (
                *("client", "helo", "sender", "relay", "recipient", "data"),
                *("end_of_data", "etrn"),
            )
        ),
        "a_class",
    ],
)
@pytest.mark.parametrize("service", [True, False], ids=["master.cf", "main.cf"])
def test_a_filter_is_known_wherever_postfix_reads_it(place, service):
    value = {place: f"static:{{FILTER smtp:{HOP}}}"}
    there = [Service("a", "inet", "smtpd", value)] if service else []
    found = configuration(
        *there,
        smtpd_restriction_classes="other, a_class",
        **({} if service else value),
    )

    assert [each.partition(" is ")[0] for each in told(found)] == [f"smtp:{HOP}"]


def test_a_filter_without_a_next_hop_has_that_of_main_cf():
    found = configuration(content_filter="smtp:", default_filter_nexthop=HOP)

    assert told(found)[0].startswith(f"smtp:{HOP} is a content filter")


def test_no_filter_is_known_by_a_comment_or_a_word_that_is_none(tmp_path):
    checks = tmp_path / "checks"
    checks.write_text(f"# FILTER smtp:{HOP}\n/x/ REJECT NOFILTER smtp:{HOP}\n")

    assert told(configuration(header_checks=f"regexp:{checks}")) == []


def test_a_fallback_relay_of_one_client_is_known():
    slow = client("slow", smtp_fallback_relay=HOP)

    assert told(configuration(slow))[0].startswith(f"smtp_fallback_relay = {HOP}: ")


def test_a_table_that_is_not_asked_is_named():
    found = configuration(transport_maps="ldap:/etc/postfix/ldap.cf")

    (complaint,) = told(found)
    assert complaint.startswith("ldap:/etc/postfix/ldap.cf in transport_maps is not")


def test_a_table_of_relayed_domains_that_is_not_asked_is_named():
    found = configuration(
        relay_domains="ldap:/etc/postfix/ldap.cf", relay_transport=f"relay:{HOP}"
    )

    (complaint,) = told(found)
    assert complaint.startswith("ldap:/etc/postfix/ldap.cf in relay_domains is not")
    assert complaint.endswith(f"relay_transport sends mail to relay:{HOP}")


def test_a_domain_below_one_that_is_relayed_goes_where_that_does():
    found = configuration(relay_domains="insecure", relay_transport=f"relay:{HOP}")

    assert told(found)[0].startswith(f"policies for {DOMAIN} have no effect: relay_")


@pytest.mark.parametrize("command", ["discard", "error", "local", "virtual"])
def test_for_mail_that_stays_here_policies_are_not_void(command):
    there = configuration(client("x", command))
    route = Route("x", "a reason", "transport_maps")

    assert routes.void(there, route, PATH, DOMAIN) == ""
    assert routes.key(there, route, DOMAIN) == DOMAIN


def test_of_many_domains_on_a_route_a_few_are_named():
    domains = [f"{letter}.org" for letter in "abcdefg"]

    assert told(configuration(relayhost=HOP), *domains)[0].startswith(
        "policies for a.org, b.org, c.org, d.org, e.org and 2 more have no effect"
    )
    assert told(configuration(relayhost=HOP), *domains[:5])[0].startswith(
        "policies for a.org, b.org, c.org, d.org and e.org have no effect"
    )


DOMAINS = ("a.org", "b.a.org", "c.b.a.org", "xn--bcher-kva.org", "hop.org")
KEYS = (*DOMAINS, ".a.org", ".b.a.org", "b\u00fccher.org", "*", "postmaster@a.org")


@given(
    st.sets(st.sampled_from(DOMAINS), min_size=1),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from([":", "smtp:", HOP, "x:"])),
    st.sets(st.sampled_from(["a.org", "b.a.org", "other.org"])),
    st.sampled_from(["", "hop.org", HOP]),
)
def test_of_many_domains_those_are_named_that_go_elsewhere_alone(
    domains, transports, relayed, hop
):
    there = configuration(
        transport_maps="hash:/transport",
        relay_domains=" ".join(relayed),
        relay_transport=f"relay:{HOP}",
        relayhost=hop,
    )

    def ask(_table: str, keys: set[str]) -> dict[str, str]:
        return {key: transports[key] for key in keys & transports.keys()}

    alone = {
        domain for domain in domains if routes.complaints(there, PATH, [domain], ask)
    }
    lines = routes.complaints(there, PATH, domains, ask)

    names = [line.split(" have no effect")[0] for line in lines]
    assert {name for name in domains if re.search(rf"[ ]{name}\b", str(names))} == alone


def test_without_policies_no_route_is_told():
    found = configuration(smtp_fallback_relay=HOP)

    assert routes.complaints(found, PATH, [], lambda *_: {}) == []
