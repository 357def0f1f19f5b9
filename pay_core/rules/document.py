"""A YAML document read by hand, so that every problem names its line and column.

Only what a rules file needs is YAML here: mappings, lists, texts, whole numbers, true and false. Anchors, aliases,
tags, duplicate keys and more than one document are refused; size, depth and number of nodes are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

import yaml

from pay_core.rules.model import Place, Problem, RulesInvalid

CHARACTERS_MAX = 256 * 1024
DEPTH_MAX = 12
NODES_MAX = 20_000
PROBLEMS_MAX = 100
INTEGER_LENGTH_MAX = 30

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*|[1-9][0-9]{0,2}(_[0-9]{3})+)")
_TEXT_TAG = "tag:yaml.org,2002:str"
_BOOLEANS = ("true", "false")

Mark = Any  # yaml.Mark, or the one of its C parser: both have line and column from 0

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")


class Problems:
    """The problems found so far, at most PROBLEMS_MAX."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: list[Problem] = []

    def add(self, mark: Mark | None, path: str, message: str) -> None:
        """Notes a problem at a mark of the parser; None is the beginning of the file."""
        line, column = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
        if len(self.found) < PROBLEMS_MAX:
            self.found.append(Problem(Place(self.source, line, column, path), message))

    def fail(self, mark: Mark | None, message: str) -> NoReturn:
        """Notes a problem that leaves nothing to go on with, and raises."""
        self.add(mark, "", message)
        raise RulesInvalid(self.found)

    def raise_any(self) -> None:
        """RulesInvalid where there are problems, in the order of the file."""
        if self.found:
            raise RulesInvalid(sorted(self.found, key=lambda problem: problem.place[1:3]))


class Section:
    """A mapping of the file. What is read from it is checked; what is wrong is noted, and a stand-in returned.

    Stand-ins never get out: the reader raises once all problems are noted. ``is_sound`` says whether this section
    has none so far, which is when its values may be compared with each other.
    """

    def __init__(self, problems: Problems, node: yaml.Node, path: str, keys: tuple[str, ...]) -> None:
        self.path = path
        self._problems = problems
        self._mark = node.start_mark
        self._problems_before = len(problems.found)
        self._values: dict[str, yaml.Node] = {}
        self._is_mapping = isinstance(node, yaml.MappingNode)
        if not isinstance(node, yaml.MappingNode):
            problems.add(node.start_mark, path, f"must be a mapping with the keys {', '.join(keys)}")
            return
        for key_node, value in node.value:
            self._take(key_node, value, keys)

    def _take(self, key_node: yaml.Node, value: yaml.Node, keys: tuple[str, ...]) -> None:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if key not in keys:
            shown = f"{key[:40]!r}" if isinstance(key, str) else "that is no text"
            self._problems.add(key_node.start_mark, self.path, f"unknown key {shown}: known are {', '.join(keys)}")
        elif key in self._values:
            self._problems.add(key_node.start_mark, self.path_of(key), "stands here twice")
        else:
            self._values[key] = value

    @property
    def is_sound(self) -> bool:
        return len(self._problems.found) == self._problems_before

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def path_of(self, key: str) -> str:
        """The path of a key: ``fees[2].rate_ppm``."""
        return f"{self.path}.{key}" if self.path else key

    def place_of(self, key: str) -> Place:
        """Where a key's value stands; where the section begins if it is left out."""
        node = self._values.get(key)
        mark = self._mark if node is None else node.start_mark
        return Place(self._problems.source, mark.line + 1, mark.column + 1, self.path_of(key))

    def problem(self, message: str, key: str = "") -> None:
        """Notes what is wrong with a key's value, or with the section as a whole."""
        node = self._values.get(key)
        mark = self._mark if node is None else node.start_mark
        self._problems.add(mark, self.path_of(key) if key else self.path, message)

    def missing(self, key: str, why: str = "") -> None:
        """Notes that a key is left out that must not be; nothing where there is no mapping to have keys."""
        if self._is_mapping:
            self.problem(f"{key} is missing: {why}" if why else f"{key} is missing")

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from ``low`` to ``high``; required where there is no default."""
        value = self.optional_integer(key, low, high)
        if value is not None:
            return value
        if default is None and key not in self:
            self.missing(key)
        return low if default is None else default

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """A whole number from ``low`` to ``high``, or None where the key is left out."""
        node = self._values.get(key)
        if node is None:
            return None
        text = node.value if isinstance(node, yaml.ScalarNode) and not node.style else ""
        if not _INTEGER.fullmatch(text) or len(text) > INTEGER_LENGTH_MAX:
            self.problem(f"must be a whole number, {low:,} to {high:,}", key)
            return low
        value = int(text)
        if not low <= value <= high:
            self.problem(f"must be {low:,} to {high:,}", key)
            return low
        return value

    def text(self, key: str, pattern: re.Pattern[str], what: str) -> str:
        """A text that ``pattern`` matches; ``what`` says to a person what that is."""
        node = self._values.get(key)
        if node is None:
            self.missing(key)
            return ""
        text = self._text(node, self.path_of(key), what)
        if text and not pattern.fullmatch(text):
            self.problem(f"must be {what}", key)
        return text

    def choice(self, key: str, choices: type[E], default: E | None = None) -> E:
        """One of the values of an enumeration."""
        node = self._values.get(key)
        value = node.value if isinstance(node, yaml.ScalarNode) else None
        if value in set(choices):
            return choices(value)
        if node is not None:
            self.problem(f"must be one of {', '.join(choices)}", key)
        elif default is None:
            self.missing(key, f"one of {', '.join(choices)}")
        return next(iter(choices)) if default is None else default

    def texts(self, key: str, judge: Callable[[str], str]) -> list[str]:
        """A list of texts, none of them twice, each one with nothing that ``judge`` says against it; not empty."""
        if key not in self:
            self.missing(key)
            return []
        elements = list(self._elements(key))
        found: list[str] = []
        for node, path in elements:
            text = self._text(node, path, "a text")
            message = "is named twice" if text in found else judge(text)
            if text and message:
                self._problems.add(node.start_mark, path, f"{text[:64]} {message}")
            found.append(text)
        if not elements and isinstance(self._values[key], yaml.SequenceNode):
            self.problem("must not be empty", key)
        return found

    def named(
        self, key: str, name_key: str, keys: tuple[str, ...], judge: Callable[[str], str]
    ) -> list[tuple[str, Section | None]]:
        """A list of names as ``texts``, each alone or as a mapping with more: its name is under ``name_key``."""
        if key not in self:
            self.missing(key)
            return []
        elements = list(self._elements(key))
        found: list[tuple[str, Section | None]] = []
        for node, path in elements:
            section = Section(self._problems, node, path, keys) if isinstance(node, yaml.MappingNode) else None
            if section is not None and name_key not in section:
                section.missing(name_key)
                continue
            named, where = (node, path) if section is None else (section._values[name_key], section.path_of(name_key))
            text = self._text(named, where, "a text")
            message = "is named twice" if any(text == name for name, _ in found) else judge(text)
            if text and message:
                self._problems.add(named.start_mark, where, f"{text[:64]} {message}")
            found.append((text, section))
        if not elements and isinstance(self._values[key], yaml.SequenceNode):
            self.problem("must not be empty", key)
        return found

    def section(self, key: str, keys: tuple[str, ...]) -> Section | None:
        """A mapping below this one, or None where the key is left out."""
        node = self._values.get(key)
        return None if node is None else Section(self._problems, node, self.path_of(key), keys)

    def sections(self, key: str, keys: tuple[str, ...]) -> Iterator[Section]:
        """The mappings of a list, one after another; none where the key is left out."""
        for node, path in self._elements(key):
            yield Section(self._problems, node, path, keys)

    def compiled(self, key: str, compile_: Callable[[str], T], default: str | None = None) -> T:
        """What ``compile_`` makes of an expression; its ValueError is noted. A bare true or false is a text here."""
        node = self._values.get(key)
        source = default or "false"
        if isinstance(node, yaml.ScalarNode) and (node.tag == _TEXT_TAG or node.value in _BOOLEANS):
            source = node.value
        elif node is not None:
            self.problem("must be an expression, as a text", key)
        elif default is None:
            self.missing(key)
        try:
            return compile_(source)
        except ValueError as error:
            self.problem(str(error), key)
            return compile_("false")

    def _elements(self, key: str) -> Iterator[tuple[yaml.Node, str]]:
        node = self._values.get(key)
        if node is None:
            return
        if not isinstance(node, yaml.SequenceNode):
            self.problem("must be a list", key)
            return
        for i, element in enumerate(node.value):
            yield element, f"{self.path_of(key)}[{i}]"

    def _text(self, node: yaml.Node, path: str, what: str) -> str:
        if isinstance(node, yaml.ScalarNode) and node.tag == _TEXT_TAG:
            return str(node.value)
        quotes = f": put {node.value[:40]!r} in quotes" if isinstance(node, yaml.ScalarNode) and node.value else ""
        self._problems.add(node.start_mark, path, f"must be {what}{quotes}")
        return ""


def parse(text: str, source: str, keys: tuple[str, ...]) -> tuple[Problems, Section]:
    """The document's mapping at the top, and where to note problems. RulesInvalid where it is no such document."""
    problems = Problems(source)
    if len(text) > CHARACTERS_MAX:
        problems.fail(None, f"is longer than {CHARACTERS_MAX:,} characters")
    unprintable = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if unprintable is not None:
        before = text[: unprintable.start()]
        line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
        mark = yaml.Mark(source, len(before), line, column, None, 0)
        problems.fail(mark, f"has the character U+{ord(unprintable.group()):04X}, which is not allowed")
    try:
        _check_events(text, problems)
        problems.raise_any()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        problems.fail(error.problem_mark or error.context_mark, f"is no valid YAML: {error.problem or error.context}")
    if node is None:
        problems.fail(None, "is empty")
    return problems, Section(problems, node, "", keys)


def _check_events(text: str, problems: Problems) -> None:
    """Notes what makes a document refused before anything is built from it: this pass takes constant memory."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if not isinstance(event, yaml.NodeEvent):
            continue
        nodes += 1
        depth += isinstance(event, yaml.CollectionStartEvent)
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            problems.add(event.start_mark, "", "anchors and aliases are not allowed: write it out")
        elif getattr(event, "tag", None) is not None:
            problems.add(event.start_mark, "", "tags are not allowed")
        if depth > DEPTH_MAX or nodes > NODES_MAX:
            problems.add(event.start_mark, "", f"is deeper than {DEPTH_MAX} levels or has over {NODES_MAX:,} values")
            return
