"""`gateway key add|list|revoke`, on the file of keys."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.output import Outcome, Table, Text
from state.key_file import ApiKey, add_key, make_key, read_keys, revoke_key
from state.words import Denied, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context


def add(context: Context, *, name: str, fields: Mapping[str, Any]) -> Outcome:
    """The new key on stdout, this once; what to do with it on stderr."""
    given = {field: value for field, value in fields.items() if value is not None and field != "expires_s"}
    if unknown := sorted(set(given["services"]) - set(context.config.service)):
        known = ", ".join(context.config.service) or "none"
        raise UsageError(f"there is no service {unknown[0]!r} in airboss.toml", hint=f"there is {known}")
    now = datetime.now(UTC).replace(microsecond=0)
    if fields["expires_s"] is not None:
        expires = datetime.fromtimestamp(now.timestamp() + fields["expires_s"], UTC)
        given["expires"] = expires.replace(microsecond=0)
    made = make_key(name, created=now, created_by=_user(), **given)
    path = _path(context)
    if context.options.dry_run:
        return Outcome("ApiKey", [], blocks=(Text(f"would put a key {name!r} into {path}"),))
    _refuse_read_only(context)
    add_key(path, made.key)
    return Outcome(
        "ApiKey",
        [{**_item(made.key), "key": made.secret}],
        blocks=(Text(made.secret),),
        names=(made.secret,),
        notes=(f"this key is shown once; {path.name} has its digest alone", *_mode_notes(context)),
    )


def list_(context: Context) -> Outcome:
    """Every key without its digest."""
    keys = read_keys(_path(context))
    now = time.time()
    rows = [
        (
            key.name,
            key.tenant or "-",
            key.request_class or "-",
            ", ".join(key.services) or "all",
            _when(key.expires) + (" (expired)" if key.is_expired(now) else ""),
            "-" if key.requests_per_minute is None else str(key.requests_per_minute),
            "-" if key.tokens_per_minute is None else str(key.tokens_per_minute),
            key.created_by or "-",
        )
        for key in keys
    ]
    header = ("KEY", "TENANT", "CLASS", "SERVICES", "EXPIRES", "RPM", "TPM", "MADE BY")
    table = Table(header, rows, right=frozenset({5, 6}), empty="no keys; `airboss gateway key add NAME` makes one")
    names = [key.name for key in keys]
    return Outcome("ApiKey", [_item(key) for key in keys], blocks=(table,), names=names, notes=_mode_notes(context))


def revoke(context: Context, *, name: str) -> Outcome:
    """Take a key away, once that is confirmed."""
    from console.commands.confirming import asked_yes

    path = _path(context)
    if name not in (known := [key.name for key in read_keys(path)]):
        raise UsageError(f"{path} has no key {name!r}", hint=f"there is {', '.join(known) or 'none'}")
    if context.options.dry_run:
        return Outcome("ApiKey", [], blocks=(Text(f"would take the key {name!r} out of {path}"),))
    _refuse_read_only(context)
    if not context.options.yes:
        if not context.can_ask:
            raise UsageError(f"revoking the key {name!r} must be confirmed", hint="add --yes", code="confirm")
        if not asked_yes(f"revoke the key {name}? Whoever uses it is refused from then on."):
            raise UsageError("not confirmed; nothing was done", code="not_confirmed")
    revoked = revoke_key(path, name)
    text = f"revoked {name}; the gateway's workers refuse it within a second"
    return Outcome("ApiKey", [_item(revoked)], blocks=(Text(text),), names=(name,))


def _path(context: Context) -> Path:
    return context.paths.root / context.config.gateway.auth.keys_file


def _refuse_read_only(context: Context) -> None:
    if context.is_read_only:
        raise Denied("this changes the keys, and this console is read-only", code="read_only")


def _mode_notes(context: Context) -> tuple[str, ...]:
    auth = context.config.gateway.auth
    if auth.takes_keys:
        return ()
    return (f"keys are not asked for: [gateway.auth] mode is {auth.mode!r}; 'keys' or 'any' makes them count",)


def _item(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "tenant": key.tenant,
        "class": key.request_class,
        "services": list(key.services),
        "expires": _when(key.expires),
        "created": _when(key.created) if key.created else "",
        "created_by": key.created_by,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
    }


def _when(at: datetime | None) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else "never"


def _user() -> str:
    """The operating system's word on who this is."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid:{os.getuid()}"
