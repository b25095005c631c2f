"""The drills: what each does, what it measures, and the seconds it must stay within. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill. `twin` is the release it is played with: none, the live one's twin, or one that fails on purpose."""

    name: str
    about: str
    measures: str
    key: str
    """The measured number that the target is for."""
    target_s: float
    twin: str = ""


_ALL = (
    Drill("rollback", "roll a twin of the live release out to half of the users, then roll it back",
          "seconds from the request until its last user", "last_user_s", 5.0, "same"),
    Drill("kill", "SIGKILL the engine under traffic, and start it again",
          "seconds until it answers; no user must fail, no process be lost", "back_s", 60.0),
    Drill("replica", "SIGKILL one model server under traffic", "seconds until there are as many as before", "back_s", 60.0),
    Drill("gateway", "SIGKILL one gateway worker under traffic", "seconds until there are as many as before", "back_s", 30.0),
    Drill("slo", "roll out a twin of which half of the answers fail, and let the judge find it",
          "seconds from its first user until all are back", "back_s", 180.0, "faulty"),
    Drill("restore", "back the store up and open the copy elsewhere, checked and whole",
          "RTO: seconds until a checked store is there; RPO: age of the newest backup", "rto_s", 60.0),
    Drill("emergency", "SIGKILL the engine in the middle of a rollout, roll back without it, start it again",
          "seconds of the command until all users are back", "command_s", 10.0, "same"),
)  # fmt: skip
DRILLS = {drill.name: drill for drill in _ALL}
VERBS_USED = ("drill.start", "drill.finish")
