"""The feeds that a session can attach to."""

from __future__ import annotations

from typing import Any

from hrtem_stream.pipeline.security import make_feed_guard
from hrtem_stream.settings import Settings


def make_feed(settings: Settings) -> Any:
    """Make the source of frames that the settings name."""
    from hrtem_stream.sources.native_wire import FeedLimits

    feed = settings.feed
    if feed.kind == "native":
        from hrtem_stream.sources.native import NativeSource

        return NativeSource(
            feed.native.endpoint,
            pattern=feed.native.pattern,
            bind=feed.native.bind,
            limits=FeedLimits(max_frame_bytes=int(feed.native.max_frame_mib * 2**20)),
            guard=make_feed_guard(settings),
        )
    if feed.kind == "dectris":
        from hrtem_stream.sources.dectris import DectrisSource

        return DectrisSource(
            feed.dectris.endpoint,
            channel=feed.dectris.channel,
            limits=FeedLimits(max_frame_bytes=int(feed.dectris.max_frame_mib * 2**20)),
            dropped=_dropped_counter(feed.dectris.control),
        )
    if feed.kind == "merlin":
        from hrtem_stream.sources.merlin import MerlinSource

        return MerlinSource(
            feed.merlin.endpoint,
            limits=FeedLimits(max_frame_bytes=int(feed.merlin.max_frame_mib * 2**20)),
        )
    if feed.kind == "replay":
        from hrtem_stream.sources.replay import ReplaySource

        return ReplaySource(
            feed.replay.paths,
            rate=feed.replay.rate,
            n_repeats=feed.replay.repeat,
            memory_bytes=int(feed.replay.memory_mib * 2**20),
        )
    from hrtem_stream.sources.simulated import SimulatedSource

    return SimulatedSource(
        n_frames=feed.simulated.n_frames,
        size=feed.simulated.size,
        seed=feed.simulated.seed,
        rate=feed.simulated.rate,
        series=feed.series,
    )


def _dropped_counter(control: str) -> Any:
    """Make the reader of a DECTRIS control unit's counter, where there is an address."""
    if not control:
        return None
    from hrtem_stream.sources.dectris_control import ControlUnit

    return ControlUnit(control)
