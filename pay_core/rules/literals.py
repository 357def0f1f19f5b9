"""What can be told from the literals of a CEL expression without running it.

Tokens only, no grammar: a literal that stands alone beside a comparison with a variable is judged, others are left to
the samples. That finds the commonest mistakes: a misspelt constant, a number for a text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pay_core.rules.scope import Kind, Scope

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<string>[rRbB]{0,2}(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))
      | (?P<float>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+)
      | (?P<integer>0[xX][0-9a-fA-F]+[uU]?|\d+[uU]?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>==|!=|<=|>=|&&|\|\||.)""",
    re.VERBOSE | re.DOTALL,
)
_COMPARE = frozenset({"==", "!=", "<", "<=", ">", ">="})
_LITERALS = ("string", "integer")
# Beside one of these a literal or a variable is only part of what is compared.
_BINDS = frozenset({"+", "-", "*", "/", "%", ".", "[", "("})


class Token(NamedTuple):
    """A token: string, float, integer, name or sign; ``text`` of a string is what is between its quotes."""

    kind: str
    text: str


class Literals(NamedTuple):
    """The literals of an expression, and what is wrong with some."""

    texts: tuple[str, ...]
    integers: tuple[int, ...]
    problems: tuple[str, ...]


def tokens_of(source: str) -> list[Token]:
    """The tokens of an expression that compiles."""
    tokens = []
    for match in _TOKEN.finditer(source):
        kind = match.lastgroup or ""
        if kind != "space":
            tokens.append(Token(kind, _between_quotes(match.group()) if kind == "string" else match.group()))
    return tokens


def comparisons(tokens: list[Token], scope: Scope) -> Literals:
    """The literals, each judged where it is compared with a variable."""
    problems = [f"{token.text} has a fraction: money is whole minor units" for token in tokens if token.kind == "float"]
    for i, token in enumerate(tokens):
        if token.kind == "name" and token.text in scope:
            problems += _judged_after(tokens, i, scope)
            problems += _judged_before(tokens, i, scope)
    texts = tuple(token.text for token in tokens if token.kind == "string")
    integers = tuple(int(token.text) for token in tokens if token.kind == "integer" and token.text.isdecimal())
    return Literals(texts, integers, tuple(dict.fromkeys(problems)))


def _judged_after(tokens: list[Token], i: int, scope: Scope) -> list[str]:
    """``variable == literal`` and ``variable in [literal, …]``."""
    name, operator, first = tokens[i].text, _text(tokens, i + 1), i + 2
    if _text(tokens, i - 1) in _BINDS - {"("}:
        return []
    if operator in _COMPARE and _kind(tokens, first) in _LITERALS and _text(tokens, first + 1) not in _BINDS:
        return _judged(name, tokens[first], scope, is_element=False)
    found = []
    if operator == "in" and _text(tokens, first) == "[":
        for token, after in zip(tokens[first + 1 :], tokens[first + 2 :], strict=False):
            if token.kind in _LITERALS and after.text in (",", "]"):
                found += _judged(name, token, scope, is_element=False)
            if after.text == "]":
                break
    return found


def _judged_before(tokens: list[Token], i: int, scope: Scope) -> list[str]:
    """``literal == variable`` and ``literal in variable``."""
    name, operator, literal = tokens[i].text, _text(tokens, i - 1), i - 2
    stands_alone = _text(tokens, i + 1) not in _BINDS and _text(tokens, literal - 1) not in _BINDS - {"("}
    if operator not in _COMPARE | {"in"} or _kind(tokens, literal) not in _LITERALS or not stands_alone:
        return []
    return _judged(name, tokens[literal], scope, is_element=operator == "in")


def _judged(name: str, literal: Token, scope: Scope, *, is_element: bool) -> list[str]:
    variable = scope[name]
    shown = f"'{literal.text}'" if literal.kind == "string" else literal.text
    is_text = literal.kind == "string"
    if is_element and variable.kind is not Kind.TEXTS:
        return [f"{name} is {variable.kind}, no list"]
    if not is_element and variable.kind is Kind.TEXTS:
        return [f"{name} is {variable.kind}: ask {shown} in {name}"]
    if is_text == (variable.kind is Kind.INTEGER):
        return [f"{name} is {variable.kind}: it is never {shown}"]
    if is_text and variable.domain is not None and literal.text not in variable.domain:
        values = sorted(variable.domain)
        known = f"one of {', '.join(values)}" if len(values) <= 12 else "an ISO 4217 code"
        never = f"no element of {name} is" if is_element else f"{name} is never"
        return [f"{never} {shown}: it is {known}"]
    return []


def _text(tokens: list[Token], i: int) -> str:
    return tokens[i].text if 0 <= i < len(tokens) and tokens[i].kind != "string" else ""


def _kind(tokens: list[Token], i: int) -> str:
    return tokens[i].kind if 0 <= i < len(tokens) else ""


def _between_quotes(text: str) -> str:
    text = text.lstrip("rRbB")
    return text[3:-3] if text[:3] in ('"""', "'''") else text[1:-1]
