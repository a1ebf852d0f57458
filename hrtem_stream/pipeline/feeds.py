"""The feeds that a session can attach to."""

from __future__ import annotations

from typing import Any

from hrtem_stream.settings import Settings


def make_feed(settings: Settings) -> Any:
    """Make the source of frames that the settings name."""
    feed = settings.feed
    if feed.kind == "native":
        from hrtem_stream.sources.native import FeedLimits, NativeSource

        return NativeSource(
            feed.native.endpoint,
            pattern=feed.native.pattern,
            bind=feed.native.bind,
            limits=FeedLimits(max_frame_bytes=int(feed.native.max_frame_mib * 2**20)),
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
