"""Plots as inline SVG: pure, with nothing from outside, readable in print and by those who do not see colours.

Every bar carries its value as a title, which browsers show and screen readers read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 12, 40
_BAR_MAX = 48
_LABELS_MAX = 8
_ROW = 30
_NAME_WIDTH = 190


class Series(NamedTuple):
    """One colour of a stack: what it is, its class in the style sheet, and a value for each place."""

    name: str
    css_class: str
    values: Sequence[int]


def stacked_bars(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    told: Callable[[int], str],
    marked: Callable[[int], str] | None = None,
) -> str:
    """A bar for each label, divided by series, with a scale; values must not be negative.

    ``told`` writes a value, ``marked`` one of the scale; left out: in thousands and millions.
    """
    mark = compact if marked is None else marked
    totals = [sum(one.values[at] for one in series) for at in range(len(labels))]
    top, step = scale(max(totals, default=0))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    slot = width / max(1, len(labels))
    bar = min(_BAR_MAX, slot * 0.7)
    parts = [_open(title, _WIDTH, _HEIGHT)]
    for tick in range(0, top + 1, step):
        y = _TOP + height - height * tick / top
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(mark(tick))}</text>'
        )
    every = math.ceil(len(labels) / _LABELS_MAX) if labels else 1
    for at, label in enumerate(labels):
        x, y = _LEFT + slot * at + (slot - bar) / 2, float(_TOP + height)
        for one in series:
            value = one.values[at]
            if value:
                tall = height * value / top
                y -= tall
                what = escape(f"{label}, {one.name}: {told(value)}")
                parts.append(
                    f'<rect class="{one.css_class}" x="{x:.1f}" y="{y:.1f}" width="{bar:.1f}" height="{tall:.1f}">'
                    f"<title>{what}</title></rect>"
                )
        if at % every == 0:
            place = f'x="{x + bar / 2:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle"'
            parts.append(f'<text class="tick" {place}>{escape(label)}</text>')
    parts.append("</svg>")
    return "".join(parts)


def lying_bars(title: str, rows: Mapping[str, int], css_class: str, unit: str) -> str:
    """A bar for each name, with its value behind it; values must not be negative."""
    most = max(rows.values(), default=0)
    height = _ROW * len(rows) + 8
    room = _WIDTH - _NAME_WIDTH - 90
    parts = [_open(title, _WIDTH, height)]
    for at, (name, value) in enumerate(rows.items()):
        y = 4 + _ROW * at
        wide = room * value / most if most else 0
        middle = y + _ROW / 2 + 1
        parts.append(
            f'<text class="name" x="{_NAME_WIDTH - 10}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>'
        )
        parts.append(
            f'<rect class="{css_class}" x="{_NAME_WIDTH}" y="{y + 4}" width="{wide:.1f}" height="{_ROW - 10}">'
            f"<title>{escape(f'{name}: {value:,} {unit}')}</title></rect>"
        )
        parts.append(f'<text class="name" x="{_NAME_WIDTH + wide + 8:.1f}" y="{middle:.0f}">{value:,}</text>')
    parts.append("</svg>")
    return "".join(parts)


def legend(series: Sequence[Series]) -> str:
    """What the colours of a stack mean."""
    items = [
        '<span><svg width="12" height="12" aria-hidden="true">'
        f'<rect class="{one.css_class}" width="12" height="12"/></svg> {escape(one.name)}</span>'
        for one in series
    ]
    return f'<p class="legend">{"".join(items)}</p>'


def scale(most: int) -> tuple[int, int]:
    """The end of a scale that holds ``most``, and the step of its marks: 1, 2 or 5 times a power of ten."""
    step = 1
    while most > 5 * step:
        step = step * 2 if str(step)[0] in "15" else step // 2 * 5
    return max(step, math.ceil(most / step) * step), step


def compact(value: int) -> str:
    """``1200`` as ``1.2k``: for marks of a scale, where the digits that are left out are zeros or nearly."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            whole, rest = divmod(value * 10 // size, 10)
            return f"{whole}.{rest}{letter}" if rest else f"{whole}{letter}"
    return str(value)


def _open(title: str, width: int, height: int) -> str:
    return f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}">'
