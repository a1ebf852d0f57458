"""Charts as SVG: a timeline and a histogram of the graphene fraction, for page and report.

They take their colours from the CSS around them, so one chart serves the dark page and the white
report. Each has a text that says what it shows.
"""

from __future__ import annotations

from html import escape
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Fractions: TypeAlias = NDArray[np.float64]

WIDTH, HEIGHT = 480, 150
LEFT, RIGHT, TOP, BOTTOM = 54, 8, 10, 26
N_STEPS = 240
"""Points of a timeline at most."""
N_BINS = 20


def timeline(fractions: Fractions, *, threshold: float | None = None, label: str = "frame") -> str:
    """Draw the graphene fraction by row: mean as a line, least to greatest as a band.

    Parameters
    ----------
    fractions
        (F,), NaN where nothing is known.
    threshold
        Drawn as a dashed line.
    label
        Of the horizontal axis.
    """
    steps = _steps(fractions)
    if not steps:
        return _frame("Graphene fraction over time: no frame yet", [], "", "0", "0")
    n = fractions.size
    x = [_x((first + last) / 2 / max(n - 1, 1)) for first, last, *_ in steps]
    band = [f"{a:.1f},{_y(high):.1f}" for a, (*_, high) in zip(x, steps, strict=True)]
    band += [
        f"{a:.1f},{_y(low):.1f}"
        for a, (_, _, low, _, _) in zip(reversed(x), reversed(steps), strict=True)
    ]
    line = [f"{a:.1f},{_y(mean):.1f}" for a, (_, _, _, mean, _) in zip(x, steps, strict=True)]
    shapes = [f'<polygon class="band" points="{" ".join(band)}"/>']
    shapes.append(f'<polyline class="line" points="{" ".join(line)}"/>')
    if threshold is not None:
        y = _y(threshold)
        shapes.append(
            f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    known = fractions[~np.isnan(fractions)]
    text = (
        f"Graphene fraction over time, {known.size} frames: "
        f"mean {known.mean():.0%}, last {known[-1]:.0%}"
    )
    return _frame(text, shapes, label, "0", str(n - 1))


def histogram(fractions: Fractions, *, threshold: float | None = None) -> str:
    """Draw how many frames have which graphene fraction; those below the threshold are pale."""
    known = fractions[~np.isnan(fractions)]
    counts, edges = np.histogram(known, bins=N_BINS, range=(0.0, 1.0))
    highest = max(int(counts.max()), 1)
    limit = threshold or 0.0
    shapes = []
    for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        top = _y(count / highest)
        kind = "bar" if (low + high) / 2 >= limit else "bar pale"
        shapes.append(
            f'<rect class="{kind}" x="{_x(low) + 1:.1f}" width="{_x(high) - _x(low) - 2:.1f}" '
            f'y="{top:.1f}" height="{_y(0) - top:.1f}"/>'
        )
    if threshold is not None:
        x = _x(threshold)
        shapes.append(
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{_y(0):.1f}"/>'
        )
    text = f"Histogram of the graphene fraction of {known.size} frames"
    return _frame(text, shapes, "graphene fraction", "0 %", "100 %", top=str(highest), bottom="0")


def _steps(fractions: Fractions) -> list[tuple[int, int, float, float, float]]:
    """Give first, last, least, mean and greatest of at most `N_STEPS` stretches of frames."""
    width = max(1, -(-fractions.size // N_STEPS))
    steps = []
    for first in range(0, fractions.size, width):
        part = fractions[first : first + width]
        part = part[~np.isnan(part)]
        if part.size:
            last = min(first + width, fractions.size) - 1
            steps.append((first, last, float(part.min()), float(part.mean()), float(part.max())))
    return steps


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _frame(
    text: str,
    shapes: list[str],
    label: str,
    begin: str,
    end: str,
    *,
    top: str = "100 %",
    bottom: str = "0 %",
) -> str:
    """Set shapes between axes."""
    return "".join(
        (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(text)}"><title>{escape(text)}</title>',
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(0)}" y2="{_y(0)}"/>',
            f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{_y(0)}"/>',
            *shapes,
            f'<text x="{LEFT - 4}" y="{TOP + 9}" text-anchor="end">{escape(top)}</text>',
            f'<text x="{LEFT - 4}" y="{_y(0)}" text-anchor="end">{escape(bottom)}</text>',
            f'<text x="{LEFT}" y="{HEIGHT - 8}">{escape(begin)}</text>',
            f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(end)}</text>',
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
            f"{escape(label)}</text></svg>",
        )
    )
