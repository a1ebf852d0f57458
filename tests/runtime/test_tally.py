"""Plain numbers, beside what Prometheus' own client says of the same values."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hrtem_stream.runtime.tally import TallyCollector

EDGES = (0.1, 0.5, 1, 30)


def _told(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


def test_numbers_are_told_as_the_client_of_prometheus_tells_them() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    numbers = TallyCollector("sort")
    ours.register(numbers)
    numbers.tally("frames", "Frames").inc(3)
    Counter("hrtem_frames", "Frames", ["stage"], registry=theirs).labels("sort").inc(3)
    numbers.level("fill", "Fill").set(0.25)
    Gauge("hrtem_fill", "Fill", ["stage"], registry=theirs).labels("sort").set(0.25)
    spread = numbers.spread("age_seconds", "Age", EDGES)
    age = Histogram("hrtem_age_seconds", "Age", ["stage"], registry=theirs, buckets=EDGES)
    for seconds in (0.0, 0.1, 0.3, 1.0, 29.0, 31.0):
        spread.observe(seconds)
        age.labels("sort").observe(seconds)
    lost = numbers.tallies("lost", "Lost", "reason")
    also_lost = Counter("hrtem_lost", "Lost", ["stage", "reason"], registry=theirs)
    for reason, n_frames in (("log full", 2), ("missing", 1), ("log full", 5)):
        lost.inc(reason, n_frames)
        also_lost.labels("sort", reason).inc(n_frames)
    assert _told(ours) == _told(theirs)


def test_a_registry_can_be_asked_for_some_numbers() -> None:
    registry, numbers = CollectorRegistry(), TallyCollector("sort")
    numbers.tallies("lost", "Lost", "reason").inc("log full")
    registry.register(numbers)
    told = generate_latest(registry.restricted_registry(["hrtem_lost_total"])).decode()
    assert 'hrtem_lost_total{reason="log full",stage="sort"} 1.0' in told
