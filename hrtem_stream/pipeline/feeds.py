"""The feeds that a session can attach to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import Calibration
from hrtem_stream.pipeline.security import make_feed_guard
from hrtem_stream.settings import Settings
from hrtem_stream.share import Share


def make_feed(settings: Settings) -> Any:
    """Make the source of frames that the settings name, with the calibration that they state."""
    from hrtem_stream.sources.calibrated import CalibratedSource

    given = {name: value or None for name, value in settings.feed.calibration.model_dump().items()}
    return CalibratedSource(_make_source(settings), settings=Calibration(**given))


def _make_source(settings: Settings) -> Any:
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
    if feed.kind == "direct_electron":
        from hrtem_stream.sources.direct_electron import DirectElectronSource
        from hrtem_stream.sources.direct_electron_camera import camera_at

        max_buffer_bytes = int(feed.direct_electron.max_buffer_mib * 2**20)
        return DirectElectronSource(
            camera_at(feed.direct_electron.endpoint, max_buffer_bytes=max_buffer_bytes),
            start=feed.direct_electron.start,
            n_frames=feed.direct_electron.n_frames,
        )
    if feed.kind == "folder":
        return _watched_folder(settings)
    if feed.kind == "replay":
        from hrtem_stream.sources.replay import ReplaySource

        return ReplaySource(
            feed.replay.paths,
            rate=feed.replay.rate,
            n_repeats=feed.replay.repeat,
            memory_bytes=int(feed.replay.memory_mib * 2**20),
            share=Share.parse(feed.replay.shard),
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


def _watched_folder(settings: Settings) -> Any:
    """Make the source of a watched folder, whose state lies beside the archives."""
    from hrtem_stream.sources.folder import FolderRules, FolderSource

    archive, folder = settings.archive, settings.feed.folder
    beside = Path(archive.file).parent if archive.file else Path(archive.directory)
    return FolderSource(
        Path(folder.path),
        rules=FolderRules(**folder.model_dump(exclude={"path"})),
        state=beside / f"{settings.session.name}.folder.jsonl",
        seen_mark=settings.runtime_directory / "folder-seen",
        archived=lambda series: n_accounted(beside, series),
    )


def n_accounted(folder: Path, series: str) -> int:
    """Return the sequence number after the last frame that the archives of a series account for.

    0 where there is no archive of the series, or none that can be read.
    """
    from hrtem_stream.archive.reader import open_archive

    following = 0
    for path in folder.glob("*.nxs*"):
        try:
            with open_archive(path) as archive:
                if archive.header.start.series != series:
                    continue
                sequences = [int(number) for number in archive.score("sequence")]
                losses = archive.ledger.losses
        except ArchiveError:
            continue
        ends = [loss.first + loss.n_frames for loss in losses]
        following = max([following, *(number + 1 for number in sequences), *ends])
    return following
