"""`expect EXPR` and `wait --for EXPR`: comparisons over the engine's objects. Pure; looking up is the caller's.

    service/chat@production.budget_left >= 0.2 and alerts.paging == 0
    rollout/ro-3.state == completed
    weight >= 25                                  (the fields of what is waited for)

An unknown value (null) satisfies no comparison but `== null`, not even `!=`: no evidence is never a pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from state.words import UsageError

Lookup = Callable[[str], Any]

_TOKEN = re.compile(
    r"\s*(?:(?P<op>==|!=|<=|>=|<|>|~)|(?P<paren>[()])|'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\""
    r"|(?P<word>[^\s()<>=!~'\"]+))"
)
_PATH = re.compile(
    r"(?:(?:service|rollout|run|release|alert|slo)/[A-Za-z0-9_:+-]+(?:@[a-z0-9-]+)?|status|alerts)\.[A-Za-z0-9_.-]+"
)
_OPS = ("==", "!=", "<=", ">=", "<", ">", "~")


@dataclass(frozen=True, slots=True)
class Value:
    """A literal: number, true, false, null, or text."""

    value: Any


@dataclass(frozen=True, slots=True)
class Path:
    """A value to look up: `rollout/ro-3.state`, or a bare field of what is waited for."""

    path: str


@dataclass(frozen=True, slots=True)
class Compare:
    """left OP right."""

    left: Value | Path
    op: str
    right: Value | Path


@dataclass(frozen=True, slots=True)
class Junction:
    """`and`, `or`, `not`."""

    word: str
    parts: tuple[Expr, ...]


Expr = Compare | Junction


def parse(text: str, *, bare_fields: bool = False) -> Expr:
    """The expression that `text` is. With `bare_fields` a bare word left of an operator is a field. Raises UsageError."""
    tokens = _tokens(text)
    parser = _Parser(text, tokens, bare_fields)
    expr = parser.either()
    if parser.at < len(tokens):
        raise _wrong(text, f"{tokens[parser.at][1]!r} is one too many")
    return expr


def evaluate(expr: Expr, lookup: Lookup) -> bool:
    """Does it hold? `lookup(path)` gives a path's value, None for unknown."""
    if isinstance(expr, Junction):
        if expr.word == "not":
            return not evaluate(expr.parts[0], lookup)
        test = all if expr.word == "and" else any
        return test(evaluate(part, lookup) for part in expr.parts)
    return compare(_value(expr.left, lookup), expr.op, _value(expr.right, lookup))


def compare(left: Any, op: str, right: Any) -> bool:
    """left OP right: as numbers where both are, else as text. Unknown only equals unknown."""
    if left is None or right is None:
        return op == "==" and left is None and right is None
    if op == "~":
        return str(right).casefold() in str(left).casefold()
    a, b = _number(left), _number(right)
    if a is None or b is None:
        a, b = _text(left), _text(right)  # type: ignore[assignment]
    result: bool = {"==": a == b, "!=": a != b}[op] if op in ("==", "!=") else _ordered(a, op, b)
    return result


def _ordered(a: Any, op: str, b: Any) -> bool:
    return bool({"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op])


def paths(expr: Expr) -> list[str]:
    """Every path that the expression looks up."""
    if isinstance(expr, Junction):
        return [path for part in expr.parts for path in paths(part)]
    return [side.path for side in (expr.left, expr.right) if isinstance(side, Path)]


def shown(expr: Expr, lookup: Lookup) -> str:
    """The values that the paths had, for the message of one that does not hold."""
    return ", ".join(f"{path} is {_text(lookup(path))}" for path in dict.fromkeys(paths(expr)))


def is_expression(text: str) -> bool:
    """It has an operator, so it is no bare word."""
    return any(op in text for op in _OPS) or "=" in text


def _value(side: Value | Path, lookup: Lookup) -> Any:
    return lookup(side.path) if isinstance(side, Path) else side.value


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(str(value).strip().removesuffix("%"))
    except ValueError:
        return None


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _wrong(text, f"{text[at:].strip()[:12]!r} cannot be read")
        kind = match.lastgroup or ""
        found.append(("text" if kind in ("single", "double") else kind, match.group(kind)))
        at = match.end()
    if not found:
        raise _wrong(text, "it is empty")
    return found


class _Parser:
    def __init__(self, text: str, tokens: list[tuple[str, str]], bare_fields: bool) -> None:
        self.text, self.tokens, self.bare_fields, self.at = text, tokens, bare_fields, 0

    def either(self) -> Expr:
        return self._chain("or", lambda: self._chain("and", self.one))

    def _chain(self, word: str, part: Callable[[], Expr]) -> Expr:
        parts = [part()]
        while self._takes("word", word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Junction(word, tuple(parts))

    def one(self) -> Expr:
        if self._takes("word", "not"):
            return Junction("not", (self.one(),))
        if self._takes("paren", "("):
            inner = self.either()
            if not self._takes("paren", ")"):
                raise _wrong(self.text, "a ) is missing")
            return inner
        left = self._side(is_left=True)
        kind, op = self._next("a comparison (==, !=, <, <=, >, >=, ~)")
        if kind != "op":
            raise _wrong(self.text, f"{op!r} stands where a comparison (==, !=, <, <=, >, >=, ~) should")
        return Compare(left, op, self._side(is_left=False))

    def _side(self, *, is_left: bool) -> Value | Path:
        kind, text = self._next("a value")
        if kind == "text":
            return Value(text)
        if kind != "word":
            raise _wrong(self.text, f"{text!r} stands where a value should")
        if _PATH.fullmatch(text):
            return Path(text)
        if text in ("true", "false", "null"):
            return Value({"true": True, "false": False, "null": None}[text])
        if is_left and self.bare_fields and _number(text) is None:
            return Path(text)
        if is_left and not self.bare_fields and _number(text) is None and "/" in text:
            raise _wrong(self.text, f"{text!r} is no value: KIND/NAME.FIELD, status.FIELD or alerts.FIELD")
        return Value(text)

    def _next(self, wanted: str) -> tuple[str, str]:
        if self.at >= len(self.tokens):
            raise _wrong(self.text, f"it ends where {wanted} should stand")
        self.at += 1
        return self.tokens[self.at - 1]

    def _takes(self, kind: str, text: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == (kind, text):
            self.at += 1
            return True
        return False


def _wrong(text: str, what: str) -> UsageError:
    return UsageError(
        f"the expression `{text.strip()}` cannot be read: {what}",
        hint="for example `rollout/ro-3.state == completed and alerts.paging == 0`",
    )


def dig(value: Any, path: str, ref: str) -> Any:
    """The field `path` (dotted) of `value`; a list of tracks, steps or stages goes by name. Raises UsageError."""
    at = value
    for part in path.split("."):
        if isinstance(at, dict) and part in at:
            at = at[part]
            continue
        if isinstance(at, list | tuple):
            keyed = {
                str(i.get("track") or i.get("name") or i.get("idx", n)): i
                for n, i in enumerate(at)
                if isinstance(i, dict)
            }
            if part in keyed:
                at = keyed[part]
                continue
            raise UsageError(f"{ref} has no {path!r}: no {part!r} among {', '.join(keyed) or 'nothing'}")
        if at is None:
            return None
        known = ", ".join(sorted(at)) if isinstance(at, dict) else type(at).__name__
        raise UsageError(f"{ref} has no field {path!r}", hint=f"it has: {known}")
    return at
