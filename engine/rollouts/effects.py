"""The effects a rollout may want: absolute, so that repeating one changes nothing (I4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Scale:
    """So many replicas of a release."""

    release_id: str
    replicas: int
    role: str = ""
    """"baseline": fresh copies of stable beside the canary; "" is the release itself."""

    kind = "scale"

    @property
    def slug(self) -> str:
        """Tells this effect from others of the same rollout."""
        return f"scale:{self.release_id}:{self.replicas}" + (f":{self.role}" if self.role else "")

    def says(self) -> str:
        """The effect in words."""
        return f"{self.replicas} {self.role + ' ' if self.role else ''}replica(s) of {self.release_id}"


@dataclass(frozen=True, slots=True)
class Extras:
    """What a route has beyond stable, canary and their weights. As wanted, and as read back from the gateway."""

    shadow: str | None = None
    """The release that gets copies of requests, and no request."""
    mirror_pct: int = 0
    rules: tuple[str, ...] = ()
    """Requests that go to the canary whatever its weight, as `state.policy_config.parse_rule` reads them."""
    baseline_weight: int = 0
    """Percent that fresh copies of stable get beside the canary."""
    affinity: str = ""
    """What a session is known by while the rollout moves: `header NAME`, `cookie NAME` or `client`."""

    def covers(self, wanted: Extras) -> bool:
        """What is read back has all that is `wanted`; the service's own rules may stand beside the rollout's."""
        has_rules = set(wanted.rules) <= set(self.rules)
        rest = (self.shadow, self.mirror_pct, self.baseline_weight)
        return has_rules and rest == (wanted.shadow, wanted.mirror_pct, wanted.baseline_weight)

    @property
    def reaches_nobody(self) -> bool:
        """No request finds its way past stable by any of these: no copies, no rule, no fresh copies of stable."""
        return self.shadow is None and not self.rules and not self.baseline_weight

    def says(self) -> tuple[str, ...]:
        """Each of them in words."""
        said = [f"copies of {self.mirror_pct} % to {self.shadow}"] if self.shadow else []
        said += [f"{rule} to the canary" for rule in self.rules]
        return (*said, *([f"{self.baseline_weight} % to fresh copies of stable"] if self.baseline_weight else []))


PLAIN = Extras()


@dataclass(frozen=True, slots=True)
class Route:
    """Which release is stable, which canary, the canary's share in percent, and what else the route has.

    `promotes` and `reverts` tell that the stable track changes hands for good.
    """

    stable: str | None
    canary: str | None
    canary_weight: int
    promotes: bool = False
    reverts: bool = False
    extras: Extras = PLAIN

    kind = "route"

    @property
    def split(self) -> dict[str, int]:
        """release → percent that it sets; those with none are left out."""
        both = {self.stable: 100 - self.canary_weight, self.canary: self.canary_weight}
        return {release: weight for release, weight in both.items() if release is not None and weight}

    def reaches(self, release_id: str) -> bool:
        """The release answers some request by it, or a copy of one."""
        return release_id in (self.stable, self.canary, self.extras.shadow)

    @property
    def slug(self) -> str:
        """Tells this effect from others of the same rollout."""
        plain = f"route:{self.stable}:{self.canary}:{self.canary_weight}"
        e = self.extras
        more = (e.shadow or "", str(e.mirror_pct or ""), *e.rules, str(e.baseline_weight or ""), e.affinity)
        return plain if e == PLAIN else f"{plain}:{'|'.join(more)}"

    def says(self) -> str:
        """The effect in words."""
        if self.canary is None and self.extras.shadow is None:
            return f"100 % to {self.stable}"
        split = f"{self.canary_weight} % to {self.canary}, the rest to {self.stable}" if self.canary else self.stable
        return "; ".join((str(split), *self.extras.says()))


@dataclass(frozen=True, slots=True)
class RegistryMove:
    """What the registry must say: `challenger`, `promote`, `reject` or `withdraw` for `release_id`, with the release before it.

    Or a stage that a hand has set, by its name (`Archived`).
    """

    move: str
    release_id: str
    other: str | None

    kind = "registry"

    @property
    def slug(self) -> str:
        """Tells this effect from others of the same rollout."""
        return f"registry:{self.move}:{self.release_id}"

    def says(self) -> str:
        """The effect in words."""
        return f"registry: {self.move} {self.release_id}"


Effect = Scale | Route | RegistryMove
_KINDS: dict[str, type[Scale] | type[Route] | type[RegistryMove]] = {
    "scale": Scale,
    "route": Route,
    "registry": RegistryMove,
}


def to_json(effect: Effect) -> dict[str, Any]:
    """The effect as the journal keeps it."""
    return {"kind": effect.kind, **asdict(effect)}


def from_json(body: dict[str, Any]) -> Effect:
    """The effect that the journal kept."""
    fields = {key: value for key, value in body.items() if key != "kind"}
    if "extras" in fields:
        extras = fields["extras"]
        fields["extras"] = Extras(**{**extras, "rules": tuple(extras["rules"])})
    return _KINDS[body["kind"]](**fields)
