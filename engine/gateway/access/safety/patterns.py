"""What is looked for in a text: regular expressions, and kinds of personal data. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Span = tuple[int, int]
PIECE_CHARS = 32_768
LONGEST_PII = 1024
"""No kind of personal data is longer, so a piece that ends this much later cuts none in two."""
_IBAN_CHARS = {c: str(i) for i, c in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")}


def is_card_number(text: str) -> bool:
    """The digits pass the check that payment cards have (Luhn, ISO/IEC 7812-1)."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [sum(divmod(2 * d, 10)) for d in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """The account number passes its check digits (ISO 13616)."""
    plain = text.replace(" ", "").upper()
    return 15 <= len(plain) <= 34 and int("".join(_IBAN_CHARS[c] for c in plain[4:] + plain[:4])) % 97 == 1


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of personal data: what it looks like, and what tells it from look-alikes."""

    pattern: re.Pattern[str]
    is_real: Callable[[str], bool] = lambda text: True


_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")


def is_phone_number(text: str) -> bool:
    """As many digits as telephone numbers have (ITU-T E.164), and no social security number."""
    return 9 <= sum(c.isdigit() for c in text) <= 15 and not _SSN.fullmatch(text)


PII = {
    "email": Kind(re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")),
    "phone": Kind(re.compile(r"(?<![\w+.])(?:(?:\+\d{1,3}|\(\d{2,5}\)|0\d{1,4})(?:[ .-]?\d{2,5}){2,5}"
                             r"|\d{3}[ .-]\d{3}[ .-]\d{4})(?![\w])"), is_phone_number),
    "card": Kind(re.compile(r"(?<!\w)\d(?:[ -]?\d){12,18}(?!\w)"), is_card_number),
    "iban": Kind(re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b"), is_iban),
    "ssn": Kind(_SSN),
    "ipv4": Kind(re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])")),
}  # fmt: skip
"""The built-in kinds. They find the usual spellings; nothing of this kind finds all."""


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The expression, compiled once. Raises re.error."""
    return re.compile(pattern)


def find_regex(patterns: tuple[str, ...], text: str) -> Iterator[tuple[Span, str]]:
    """(where, "redacted") of everything the patterns match; empty matches are none."""
    for pattern in patterns:
        for match in compiled(pattern).finditer(text):
            if match.end() > match.start():
                yield match.span(), "redacted"


def find_pii(kinds: tuple[str, ...], text: str) -> Iterator[tuple[Span, str]]:
    """(where, which kind) of all personal data found; no kinds named: all kinds."""
    for piece in find_pii_by_piece(kinds, text):
        yield from piece


def find_pii_by_piece(kinds: tuple[str, ...], text: str) -> Iterator[list[tuple[Span, str]]]:
    """The same, piece by piece of a long text, so that whoever asks may do something else in between."""
    for name in kinds or tuple(PII):
        kind, resume = PII[name], 0
        for start in range(0, len(text), PIECE_CHARS):
            found: list[tuple[Span, str]] = []
            for match in kind.pattern.finditer(text, max(start, resume), start + PIECE_CHARS + LONGEST_PII):
                if match.start() >= start + PIECE_CHARS:
                    break
                resume = match.end()
                if kind.is_real(match.group()):
                    found.append((match.span(), name))
            yield found


def merged(found: list[tuple[Span, str]]) -> list[tuple[Span, str]]:
    """The spans in order, those that overlap made one, under the first one's name."""
    out: list[tuple[Span, str]] = []
    for (start, end), name in sorted(found):
        if out and start < out[-1][0][1]:
            (first, last), known = out[-1]
            out[-1] = (first, max(last, end)), known
        else:
            out.append(((start, end), name))
    return out


def masked(text: str, found: list[tuple[Span, str]]) -> str:
    """The text with `[name]` in the place of each span. The spans are merged."""
    parts, at = [], 0
    for (start, end), name in found:
        parts += [text[at:start], f"[{name}]"]
        at = end
    return "".join((*parts, text[at:]))
