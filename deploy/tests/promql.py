"""Which series an expression reads. Enough of PromQL for that; promtool and Prometheus do the rest."""

import re
from dataclasses import dataclass

WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless"}
WORDS |= {"bool", "offset", "inf", "nan", "Inf", "NaN"}
GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
# Not inside a number such as 1e3, nor inside a string, which is skipped as a whole.
SELECTOR = re.compile(r'"[^"]*"|(?<![\w.])([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(\s*\()?')
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


@dataclass(frozen=True)
class Selector:
    """One `name{label="value"}` of an expression."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        inner = ",".join(f'{label}{op}"{value}"' for label, op, value in self.matchers)
        return f"{self.name}{{{inner}}}" if inner else self.name


def selectors(expression: str) -> list[Selector]:
    text = re.sub(r"\[[^\]]*\]", " ", GROUPING.sub(" ", expression))
    found = []
    for name, braces, call in SELECTOR.findall(text):
        if name and name not in WORDS and not call:
            found.append(Selector(name, tuple(MATCHER.findall(braces))))
    return found


def labels(expression: str) -> set[str]:
    """The labels that an expression groups by or matches on."""
    grouped = {word.strip() for _, inner in GROUPING.findall(expression) for word in inner.split(",")}
    matched = {label for found in selectors(expression) for label, _, _ in found.matchers}
    return {label for label in grouped | matched if label}
