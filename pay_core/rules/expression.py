"""CEL expressions that answer yes or no: checked and compiled once, evaluated in microseconds.

CEL types its values when it runs, so what can be known before is checked here: variables and functions by name,
literals by the types and values of what they are compared with, and the whole by evaluating it on samples.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import cel

from pay_core.rules.literals import Literals, Token, comparisons, tokens_of
from pay_core.rules.scope import Kind, Scope
from paykit.errors import FailedPrecondition
from paykit.money import AMOUNT_MINOR_MAX

EXPRESSION_LENGTH_MAX = 1000
MACROS_MAX = 2  # each loops over a list: two nested ones are quadratic, and that is enough
SAMPLES_MAX = 1000
CACHE_SIZE = 512

# What CEL calls the operators of this implementation, and the functions that are pure and total enough to check.
_LOGIC = {"_&&_", "_||_", "!_", "_?_:_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "_[_]"}
_ARITHMETIC = {"_+_", "_-_", "_*_", "_/_", "_%_", "-_"}
_OPERATORS = _LOGIC | _ARITHMETIC | {"@not_strictly_false"}
FUNCTIONS = frozenset({"size", "startsWith", "endsWith", "contains", "matches"})
_MACRO = re.compile(r"all|exists|exists_one|map|filter")
_PARSER_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.*)")

Evaluate = Callable[[tuple[Any, ...]], bool]


class ExpressionInvalid(ValueError):
    """An expression may not be used; the message says why."""


class Expression:
    """A compiled expression. ``is_always`` is True or False where it is that very word, else None."""

    def __init__(self, source: str, place: str, scope: Scope) -> None:
        """ExpressionInvalid where it does not compile, names what it may not, or can fail or answer something else."""
        self.source, self._place = source, place
        stripped = source.strip()
        self.is_always: bool | None = {"true": True, "false": False}.get(stripped)
        if self.is_always is not None:
            return
        self._program = _compiled(source)
        tokens = tokens_of(source)
        bound = _names_bound_by_macros(tokens)
        names = self._program.variables()
        self._names = tuple(name for name in names if name in scope)
        _check_names([name for name in names if name not in bound], self._program.functions(), scope)
        literals = comparisons(tokens, scope)
        if literals.problems:
            raise ExpressionInvalid("; ".join(literals.problems))
        self._check_samples(literals, scope)
        self._evaluate: Evaluate = self._run
        if all(scope[name].is_cached for name in self._names):
            self._evaluate = lru_cache(CACHE_SIZE)(self._run)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is true for ``values``. FailedPrecondition RULE_FAILED where it fails against all samples."""
        if self.is_always is not None:
            return self.is_always
        try:
            return self._evaluate(tuple([values[name] for name in self._names]))
        except Exception as error:
            raise FailedPrecondition(
                f"{self._place} cannot be evaluated for this payment: {_first_line(error)}", reason="RULE_FAILED"
            ) from error

    def _run(self, values: tuple[Any, ...]) -> bool:
        result = self._program.execute(dict(zip(self._names, values, strict=True)))
        if not isinstance(result, bool):
            raise TypeError(f"gives {type(result).__name__} instead of true or false")
        return result

    def _check_samples(self, literals: Literals, scope: Scope) -> None:
        for values in _samples(self._names, literals, scope):
            try:
                self._run(values)
            except Exception as error:
                shown = ", ".join(f"{name} = {value!r}" for name, value in zip(self._names, values, strict=True))
                reason = f"{_first_line(error)}"
                raise ExpressionInvalid(f"fails where {shown}: {reason}" if shown else f"fails: {reason}") from None


def _compiled(source: str) -> cel.Program:
    if len(source) > EXPRESSION_LENGTH_MAX:
        raise ExpressionInvalid(f"is longer than {EXPRESSION_LENGTH_MAX:,} characters")
    try:
        return cel.compile(source)
    except ValueError as error:
        found = _PARSER_ERROR.search(str(error))
        if found is None:
            raise ExpressionInvalid(f"does not compile: {_first_line(error)}") from None
        line, column, message = found.groups()
        where = f"line {line}, character {column}" if "\n" in source.strip() else f"character {column}"
        raise ExpressionInvalid(f"does not compile at {where}: {_shortened(message)}") from None


def _check_names(variables: list[str], functions: list[str], scope: Scope) -> None:
    unknown = [name for name in variables if name not in scope]
    if unknown:
        known = ", ".join(sorted(scope))
        raise ExpressionInvalid(f"unknown variable {', '.join(unknown)}: known here are {known}")
    forbidden = [name for name in functions if name not in _OPERATORS and name not in FUNCTIONS]
    if forbidden:
        raise ExpressionInvalid(f"unknown function {', '.join(forbidden)}: known are {', '.join(sorted(FUNCTIONS))}")


def _names_bound_by_macros(tokens: list[Token]) -> set[str]:
    """The x of ``list.exists(x, …)``, which is no variable of the payment."""
    bound = []
    for dot, macro, parenthesis, name in zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False):
        if dot.text == "." and _MACRO.fullmatch(macro.text) and parenthesis.text == "(":
            bound.append(name.text)
    if len(bound) > MACROS_MAX:
        raise ExpressionInvalid(f"has more than {MACROS_MAX} of all, exists, exists_one, map and filter")
    return set(bound)


def _samples(names: tuple[str, ...], literals: Literals, scope: Scope) -> Iterator[tuple[Any, ...]]:
    """Values for the variables: their samples and what the expression itself names, every combination up to a bound."""
    candidates = [_candidates(name, literals, scope) for name in names]
    if math.prod(map(len, candidates)) <= SAMPLES_MAX:
        yield from itertools.product(*candidates)
        return
    chosen = random.Random(0)  # the same file is judged the same each time
    for _ in range(SAMPLES_MAX):
        yield tuple([chosen.choice(values) for values in candidates])


def _candidates(name: str, literals: Literals, scope: Scope) -> list[Any]:
    variable = scope[name]
    texts = [text for text in literals.texts if variable.domain is None or text in variable.domain]
    found: list[Any] = list(variable.samples)
    if variable.kind is Kind.TEXT:
        found += texts
    elif variable.kind is Kind.TEXTS:
        found += [(text,) for text in texts]
    else:
        near = [number + step for number in literals.integers for step in (-1, 0, 1)]
        found += [number for number in near if 1 <= number <= AMOUNT_MINOR_MAX]
    return list(dict.fromkeys(found))


def _first_line(error: Exception) -> str:
    return _shortened(str(error).split("\n", 1)[0].split(". CEL does", 1)[0])


def _shortened(message: str) -> str:
    message = message.split(" expecting {", 1)[0].strip()
    return message if len(message) <= 200 else message[:199] + "…"
