"""Personal data and credentials in text: found by class, replaced by the class's name, counted.

Rules prefer the certain over the likely: a card number must pass its checksum, an address must be one, a phone number
must be written as one. Redacting twice changes nothing: no replacement matches a rule.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

RULES_VERSION = 1
"""Raised with every change of the rules, so that a data set says which ones it passed."""


def _always(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Rule:
    """A class of personal data: what it looks like, and whether a candidate really is one."""

    name: str
    pattern: re.Pattern[str]
    is_real: Callable[[str], bool] = _always

    @property
    def mark(self) -> str:
        """What stands in its place."""
        return f"<{self.name.upper()}>"


def luhn(candidate: str) -> bool:
    """Whether 13 to 19 digits pass the checksum of ISO/IEC 7812-1 and are not one digit repeated."""
    digits = [int(char) for char in candidate if char.isascii() and char.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def iban(candidate: str) -> bool:
    """Whether a bank account number passes the checksum of ISO 13616 (mod 97)."""
    packed = candidate.replace(" ", "")
    if not 15 <= len(packed) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in packed[4:] + packed[:4])) % 97 == 1


def citizen_id(candidate: str) -> bool:
    """Whether 18 characters pass the checksum of a resident identity number (GB 11643, ISO 7064 MOD 11-2)."""
    total = sum(int(digit) * (2 ** (17 - place) % 11) for place, digit in enumerate(candidate[:17]))
    return "10X98765432"[total % 11] == candidate[17].upper()


def person_address(candidate: str) -> bool:
    """Whether this is an IP address that could lead to somebody: none of loopback, unspecified, multicast, reserved.

    The reserved ones leave out what only looks like IPv6, such as the slice in `x[a::2]`.
    """
    try:
        address = ipaddress.ip_address(candidate)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or address.is_reserved)


def _rule(name: str, pattern: str, is_real: Callable[[str], bool] = _always) -> Rule:
    return Rule(name, re.compile(pattern), is_real)


_KEY = (
    r"\b(?:sk|pk|rk)[-_](?:live|test|proj|ant|or)?[-_]?[A-Za-z0-9_-]{20,200}"  # model and payment providers
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # cloud access keys
    r"|\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_[A-Za-z0-9_]{22,255}\b|\bglpat-[A-Za-z0-9_-]{20,64}"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,200}|\bhf_[A-Za-z0-9]{30,64}\b|\bAIza[0-9A-Za-z_-]{35}"
    r"|\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"  # JSON Web Tokens
    r"|(?<=://)[^\s/:@<>]{1,64}:[^\s/@<>]{1,128}(?=@)"  # user:password@ of a URL
    r"""|(?i:(?<=password=)|(?<=password: )|(?<=api_key=)|(?<=api_key: )|(?<=secret=)|(?<=token=))["']?[A-Za-z0-9+/_.-]{12,256}(?=["'\s,;]|$)"""
)

RULES = (
    _rule(
        "private_key",
        r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[A-Za-z0-9+/=\s:,-]{1,20000}?-----END [A-Z ]{0,20}PRIVATE KEY-----",
    ),
    _rule("api_key", _KEY),
    _rule("email", r"(?<![\w.+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
    _rule("iban", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", iban),
    _rule("citizen_id", r"(?<![\dA-Za-z])[1-9]\d{16}[\dXx](?![\dA-Za-z])", citizen_id),
    _rule("card", r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]\d|\d)", luhn),
    _rule("ipv6", r"(?<![\w:.])(?=[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:)[0-9A-Fa-f:]{3,39}(?![\w:.])", person_address),
    _rule("ipv4", r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", person_address),
    _rule("social_security", r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
    _rule(
        "phone",
        r"(?<![\w+.-])(?:\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,11}"  # international
        r"|(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}"  # North American
        r"|1[3-9]\d{9})(?![\w-]|\.\d)",  # mainland Chinese mobile
    ),
)
"""Order matters: the longer and surer classes first."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without personal data, and how many of each class it had."""

    text: str
    counts: dict[str, int]


def redact(text: str) -> Redacted:
    """Replace every find of every rule by the rule's mark."""
    counts: Counter[str] = Counter()
    for rule in RULES:

        def mark(found: re.Match[str], rule: Rule = rule) -> str:
            if not rule.is_real(found.group()):
                return found.group()
            counts[rule.name] += 1
            return rule.mark

        text = rule.pattern.sub(mark, text)
    return Redacted(text, dict(counts))


def remaining(text: str) -> int:
    """How many finds a second pass would still make: 0 after `redact`."""
    return sum(redact(text).counts.values())
