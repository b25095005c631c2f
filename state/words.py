"""The words of the product: enums, exit codes and errors. Standard library only."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """What the process says to a script. Documented in `airboss help exit-codes`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    TIMEOUT = 4
    WAITING = 5
    CONFLICT = 6
    DENIED = 7
    GATE = 8
    CHANGES = 10
    HUP = 129
    INT = 130
    PIPE = 141
    TERM = 143


class AirbossError(Exception):
    """An error a person can act on: what happened, to what, what to do.

    `code` is a stable slug for scripts, `exit` the process's exit code, `hint` the way out.
    """

    code = "failed"
    exit = ExitCode.FAILED
    retryable = False

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code:
            self.code = code

    def as_dict(self) -> dict[str, object]:
        """The body of `{"error": …}` on stderr and on the wire."""
        return {
            "code": self.code,
            "exit": int(self.exit),
            "message": self.message,
            "retryable": self.retryable,
            "hint": self.hint,
        }


class OperationFailed(AirbossError):
    """It ran, and it failed."""


class UsageError(AirbossError):
    """The words or the configuration are wrong, or a confirmation is missing."""

    code = "usage"
    exit = ExitCode.USAGE


class ConfigError(UsageError):
    """`airboss.toml` says something that cannot be meant; the message has file, line and field."""

    code = "config"


class Unreachable(AirbossError):
    """The engine or a backend did not answer."""

    code = "unreachable"
    exit = ExitCode.UNREACHABLE
    retryable = True


class TimedOut(AirbossError):
    """The time given ran out; the work goes on."""

    code = "timeout"
    exit = ExitCode.TIMEOUT
    retryable = True


class WaitingForHuman(AirbossError):
    """The work stands at a human's gate."""

    code = "waiting"
    exit = ExitCode.WAITING


class Conflict(AirbossError):
    """Wrong state for the verb, the revision moved, or a lock is held."""

    code = "conflict"
    exit = ExitCode.CONFLICT


class Denied(AirbossError):
    """Role, approval, freeze or read-only mode forbids it."""

    code = "denied"
    exit = ExitCode.DENIED


class GateRefused(AirbossError):
    """A gate or a verdict said no."""

    code = "gate"
    exit = ExitCode.GATE


ERRORS_BY_EXIT: dict[int, type[AirbossError]] = {
    int(kind.exit): kind
    for kind in (
        OperationFailed,
        UsageError,
        Unreachable,
        TimedOut,
        WaitingForHuman,
        Conflict,
        Denied,
        GateRefused,
    )
}


def error_from_dict(body: dict[str, object]) -> AirbossError:
    """The error an engine put on the wire, as the exception a client raises."""
    kind = ERRORS_BY_EXIT.get(int(str(body.get("exit", 1))), OperationFailed)
    return kind(
        str(body.get("message", "the engine answered with an error it did not explain")),
        hint=str(body.get("hint", "")),
        code=str(body.get("code", "")),
    )


class Track(StrEnum):
    """The role a release plays in a rollout."""

    STABLE = "stable"
    CANARY = "canary"
    SHADOW = "shadow"
    BASELINE = "baseline"


class Strategy(StrEnum):
    """How a rollout moves traffic."""

    CANARY = "canary"
    BLUE_GREEN = "blue-green"
    ROLLING = "rolling"
    SHADOW = "shadow"
    SWAP = "swap"


class RolloutState(StrEnum):
    """Where a rollout stands. The step's index is a field beside it."""

    PLANNED = "planned"
    AWAITING_APPROVAL = "awaiting_approval"
    PREPARING = "preparing"
    SHADOWING = "shadowing"
    STEP_APPLYING = "step_applying"
    STEP_BAKING = "step_baking"
    AWAITING_PROMOTION = "awaiting_promotion"
    PROMOTING = "promoting"
    VERIFYING = "verifying"
    COMPLETED = "completed"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    STUCK = "stuck"

    @property
    def is_terminal(self) -> bool:
        """Terminal rollouts no longer hold the one-active place of their service."""
        return self in TERMINAL_STATES


TERMINAL_STATES = frozenset(
    {
        RolloutState.COMPLETED,
        RolloutState.ROLLED_BACK,
        RolloutState.SUPERSEDED,
        RolloutState.CANCELLED,
    }
)


class PauseReason(StrEnum):
    """Why a rollout stands still."""

    MANUAL = "manual"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no_data"
    SLO = "slo"
    DRIFT = "drift"
    FREEZE = "freeze"
    CAPACITY = "capacity"
    ADAPTER_DOWN = "adapter_down"
    RESTORED = "restored"


class VerdictKind(StrEnum):
    """What the judge says."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NO_DATA = "NO_DATA"


class NoDataCause(StrEnum):
    """Why there is no evidence."""

    NO_TRAFFIC = "no_traffic"
    NO_CANARY_TRAFFIC = "no_canary_traffic"
    STALE = "stale"
    UNREACHABLE = "unreachable"
    GAP = "gap"
    NOT_A_NUMBER = "not_a_number"
    SERIES_MISSING = "series_missing"
    PARTIAL = "partial"
    """The source answered with a part of what it has, and said so."""


class Lifecycle(StrEnum):
    """The stage of a release's life."""

    DEVELOPMENT = "Development"
    STAGING = "Staging"
    PRODUCTION = "Production"
    ARCHIVED = "Archived"
    REJECTED = "Rejected"


class RunState(StrEnum):
    """Where a pipeline run, or one stage of it, stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    CACHED = "cached"
    GATE_FAILED = "gate_failed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def is_over(self) -> bool:
        """Nothing more will happen to it by itself."""
        return self not in (RunState.PENDING, RunState.RUNNING)

    @property
    def is_good(self) -> bool:
        """Its outputs may be used."""
        return self in (RunState.SUCCEEDED, RunState.CACHED)


class ChildKind(StrEnum):
    """What a process that the engine starts is for."""

    GATEWAY = "gateway"
    MODEL = "model"
    STAGE = "stage"
    REGISTRY = "registry"


class IntentState(StrEnum):
    """Where a journalled effect stands."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class AlertState(StrEnum):
    """Active until its condition has cleared."""

    ACTIVE = "active"
    RESOLVED = "resolved"


class Severity(StrEnum):
    """How loudly an alert speaks."""

    PAGE = "page"
    TICKET = "ticket"
    INFO = "info"


class Role(StrEnum):
    """What a Unix user or group may do in an environment."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    REGISTRAR = "registrar"
    ADMIN = "admin"


class BadClass(StrEnum):
    """The class of a request's outcome; `COUNTS_AND_BAD` says which count and which are bad."""

    OK = "ok"
    SERVER_ERROR = "5xx"
    DEADLINE = "deadline"
    STREAM_BROKEN = "stream_broken"
    SHED = "shed"
    CLIENT_ERROR = "4xx"
    CLIENT_CANCEL = "cancel"
    QUOTA = "quota"
    CACHED = "cached"


COUNTS_AND_BAD: dict[BadClass, tuple[bool, bool]] = {
    BadClass.OK: (True, False),
    BadClass.SERVER_ERROR: (True, True),
    BadClass.DEADLINE: (True, True),
    BadClass.STREAM_BROKEN: (True, True),
    BadClass.SHED: (True, True),
    BadClass.CLIENT_ERROR: (False, False),
    BadClass.CLIENT_CANCEL: (False, False),
    BadClass.QUOTA: (False, False),
    BadClass.CACHED: (False, False),
}
"""class → (does it count as an event?, is it a bad one?). DESIGN §8."""

API_VERSION = "airboss/v1"
CHILD_PROTOCOL = 1
"""The version of the gateway's and the model server's admin protocol; N−1 is accepted."""
