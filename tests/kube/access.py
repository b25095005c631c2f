"""Who may do what: bearer tokens, their rules, and the reviews a client asks before it acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kube.errors import forbidden, unauthorized
from kube.resources import Resource
from kube.values import Obj, at

ADMIN_TOKEN = "admin-token"


@dataclass(frozen=True, slots=True)
class Rule:
    """Verbs on resources of groups, in some namespaces (all unless said). `*` takes any."""

    verbs: Sequence[str]
    resources: Sequence[str]
    groups: Sequence[str] = ("*",)
    namespaces: Sequence[str] = ("*",)
    names: Sequence[str] = ()

    def allows(self, verb: str, group: str, resource: str, namespace: str, name: str) -> bool:
        """Whether this rule takes the request; `resource` is `deployments` or `deployments/scale`."""
        return (
            _takes(self.verbs, verb)
            and _takes(self.groups, group)
            and (_takes(self.resources, resource))
            and _takes(self.namespaces, namespace)
            and (not self.names or name in self.names)
        )


def _takes(wanted: Sequence[str], value: str) -> bool:
    return "*" in wanted or value in wanted


@dataclass
class Account:
    """A user of the server."""

    user: str
    rules: list[Rule]
    groups: list[str] = field(default_factory=lambda: ["system:authenticated"])


class Access:
    """The tokens the server knows. The admin's is there from the start."""

    def __init__(self) -> None:
        self._accounts = {ADMIN_TOKEN: Account("kubernetes-admin", [Rule(["*"], ["*"])])}

    def grant(self, token: str, user: str, rules: Sequence[Rule]) -> None:
        """Let a token act as `user` by these rules, in place of what it had. The empty token is who sends none."""
        self._accounts[token] = Account(user, list(rules))

    def expire(self, token: str) -> None:
        """From now on the token gets 401."""
        self._accounts.pop(token, None)

    def account(self, authorization: str) -> Account:
        """The user of an Authorization header. Raises 401 for a token not known; no header is the anonymous user."""
        if not authorization:
            return self._accounts.get("", Account("system:anonymous", [], ["system:unauthenticated"]))
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or token not in self._accounts:
            raise unauthorized()
        return self._accounts[token]

    def check(self, account: Account, verb: str, which: Resource, subresource: str, namespace: str, name: str) -> None:
        """Raise 403 in the words of a real server where no rule takes the request."""
        asked = f"{which.plural}/{subresource}" if subresource else which.plural
        if any(rule.allows(verb, which.group, asked, namespace, name) for rule in account.rules):
            return
        where = f'in the namespace "{namespace}"' if which.namespaced and namespace else "at the cluster scope"
        why = f'User "{account.user}" cannot {verb} resource "{asked}" in API group "{which.group}" {where}'
        raise forbidden(which, name, why)

    def review(self, account: Account, kind: str, body: Obj) -> Obj:
        """The answer to a SelfSubjectAccessReview, a SelfSubjectRulesReview or a SelfSubjectReview."""
        if kind == "SelfSubjectAccessReview":
            status = self._access(account, at(body, "spec", "resourceAttributes", default={}))
        elif kind == "SelfSubjectRulesReview":
            status = _rules(account, at(body, "spec", "namespace", default=""))
        else:
            status = {"userInfo": {"username": account.user, "groups": account.groups}}
        return {**body, "metadata": {}, "status": status}

    def _access(self, account: Account, asked: Obj) -> Obj:
        resource = asked.get("resource", "")
        if asked.get("subresource"):
            resource = f"{resource}/{asked['subresource']}"
        request = (
            asked.get("verb", ""),
            asked.get("group", ""),
            resource,
            asked.get("namespace", ""),
            asked.get("name", ""),
        )
        allowed = any(rule.allows(*request) for rule in account.rules)
        return {"allowed": True, "reason": "RBAC: allowed by a rule of the test"} if allowed else {"allowed": False}


def _rules(account: Account, namespace: str) -> Obj:
    rows = [
        {"verbs": list(rule.verbs), "apiGroups": list(rule.groups), "resources": list(rule.resources),
         **({"resourceNames": list(rule.names)} if rule.names else {})}
        for rule in account.rules
        if _takes(rule.namespaces, namespace)
    ]  # fmt: skip
    return {"resourceRules": rows, "nonResourceRules": [], "incomplete": False}
