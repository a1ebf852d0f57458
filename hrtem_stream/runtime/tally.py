"""Counts, levels and spreads of one process, as plain numbers that cost next to nothing to change.

A stage changes a dozen of them for each frame, and is asked for them every few seconds: so nothing
is locked or labelled before somebody asks. One thread changes a number, any thread may read it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString


class Tally:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self.value += amount


class Level:
    """A number that rises and falls."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        """Give it a value."""
        self.value = float(value)

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self.value += amount


class Spread:
    """How many values lie between the edges of a histogram.

    Parameters
    ----------
    edges
        Upper ends of the buckets, which are part of them, in order.
    """

    __slots__ = ("_counts", "_edges", "_sum")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Take in a value."""
        self._counts[bisect_left(self._edges, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Give the number of values up to each edge, as text, and the sum of all."""
        found, n_below = [], 0
        names = [*map(floatToGoString, self._edges), "+Inf"]
        for name, count in zip(names, self._counts, strict=True):
            n_below += count
            found.append((name, float(n_below)))
        return found, self._sum


class Tallies:
    """Numbers that only grow, by a label of few values."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def inc(self, label: str, amount: float = 1.0) -> None:
        """Add to one of them."""
        self.values[label] = self.values.get(label, 0.0) + amount


Number: TypeAlias = Tally | Level | Spread | Tallies


class TallyCollector:
    """Tells Prometheus all numbers of a stage when it asks.

    Parameters
    ----------
    stage
        Name of the stage, a label of each.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._numbers: list[tuple[str, str, str, Number]] = []

    def tally(self, name: str, text: str) -> Tally:
        """Make a number that only grows."""
        made = Tally()
        self._numbers.append((name, text, "", made))
        return made

    def level(self, name: str, text: str) -> Level:
        """Make one that rises and falls."""
        made = Level()
        self._numbers.append((name, text, "", made))
        return made

    def spread(self, name: str, text: str, edges: tuple[float, ...]) -> Spread:
        """Make a histogram."""
        made = Spread(edges)
        self._numbers.append((name, text, "", made))
        return made

    def tallies(self, name: str, text: str, label: str) -> Tallies:
        """Make numbers that only grow, by a label."""
        made = Tallies()
        self._numbers.append((name, text, label, made))
        return made

    def describe(self) -> Iterator[Metric]:
        """Name the numbers, so that a registry can be asked for some of them."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Give each number as it is now."""
        for name, text, label, number in self._numbers:
            full_name, labels = f"hrtem_{name}", ["stage"]
            match number:
                case Tally():
                    counter = CounterMetricFamily(full_name, text, labels=labels)
                    counter.add_metric([self._stage], number.value)
                    yield counter
                case Tallies():
                    counter = CounterMetricFamily(full_name, text, labels=[*labels, label])
                    for value_of_label, value in list(number.values.items()):
                        counter.add_metric([self._stage, value_of_label], value)
                    yield counter
                case Level():
                    gauge = GaugeMetricFamily(full_name, text, labels=labels)
                    gauge.add_metric([self._stage], number.value)
                    yield gauge
                case Spread():
                    buckets, total = number.buckets()
                    histogram = HistogramMetricFamily(full_name, text, labels=labels)
                    histogram.add_metric([self._stage], buckets, total)
                    yield histogram
