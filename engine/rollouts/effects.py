"""The effects a rollout may want: absolute, so that repeating one changes nothing (I4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Scale:
    """So many replicas of a release."""

    release_id: str
    replicas: int

    kind = "scale"

    @property
    def slug(self) -> str:
        """Tells this effect from others of the same rollout."""
        return f"scale:{self.release_id}:{self.replicas}"

    def says(self) -> str:
        """The effect in words."""
        return f"{self.replicas} replica(s) of {self.release_id}"


@dataclass(frozen=True, slots=True)
class Route:
    """Which release is stable, which canary, and the canary's share in percent.

    `promotes` and `reverts` tell that the stable track changes hands for good.
    """

    stable: str | None
    canary: str | None
    canary_weight: int
    promotes: bool = False
    reverts: bool = False

    kind = "route"

    @property
    def split(self) -> dict[str, int]:
        """release → percent that it sets; those with none are left out."""
        both = {self.stable: 100 - self.canary_weight, self.canary: self.canary_weight}
        return {release: weight for release, weight in both.items() if release is not None and weight}

    @property
    def slug(self) -> str:
        """Tells this effect from others of the same rollout."""
        return f"route:{self.stable}:{self.canary}:{self.canary_weight}"

    def says(self) -> str:
        """The effect in words."""
        if self.canary is None:
            return f"100 % to {self.stable}"
        return f"{self.canary_weight} % to {self.canary}, the rest to {self.stable}"


@dataclass(frozen=True, slots=True)
class RegistryMove:
    """What the registry must say: `challenger`, `promote`, `reject` or `withdraw` for `release_id`, with the release before it."""

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
    return _KINDS[body["kind"]](**fields)
