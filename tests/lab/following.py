"""A Postfix that follows policies for the mail that it sends."""

from certbot_postfix.outbound import policy_map
from certbot_postfix.postfix.instance import Postfix
from tests.lab.postfix import PrivatePostfix
from tests.lab.postmap import needs


class Following:
    """A Postfix and its policy map, which is not there yet."""

    def __init__(self, postfix: PrivatePostfix) -> None:
        self.postfix = postfix
        self.path = postfix.config_dir / policy_map.NAME

    def follow(self, form: str) -> None:
        """Let main.cf name the table as *form*, as one with many domains would be."""
        needs(form)
        if form != "texthash":
            self.postfix.set(default_database_type=form)
        self.postfix.set(smtp_tls_policy_maps=f"{form}:{self.path}")

    def answer(self, domain: str) -> str:
        """Return what Postfix finds, in all tables that main.cf names."""
        postfix = Postfix(self.postfix.config_dir)
        self.postfix.settle()
        named = postfix.value("smtp_tls_policy_maps")
        found = [postfix.answers(each, {domain}) for each in named.split(", ") if each]
        return next((each[domain] for each in found if domain in each), "")
