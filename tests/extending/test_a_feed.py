"""How a feed is added, into `sources/`, `feed.kind` in `settings.py`, and `pipeline/feeds.py`."""

from pathlib import Path

import numpy as np

from hrtem_stream import open_archive
from hrtem_stream.messages import FeedFinished, FeedFrame, SeriesEnd, SeriesStart
from hrtem_stream.pipeline.analysis import make_analysis
from hrtem_stream.settings import ArchiveSettings, load_settings
from hrtem_stream.stages.series import SortedSeries
from hrtem_stream.stages.solitary import archive_feed

BOARD = (100 + 50 * ((np.indices((128, 128)) // 8).sum(axis=0) % 2)).astype(np.uint16)


class Chessboards:
    can_wait = True

    def open(self, position: object) -> None:
        frames = [FeedFrame(sequence=n, pixels=BOARD + n) for n in range(3)]
        start = SeriesStart(series="boards", feed="chess")
        self._items = [start, *frames, SeriesEnd(n_frames=3), FeedFinished()]

    def receive(self, timeout_s: float) -> object:
        return self._items.pop(0)

    def close(self) -> None:
        self._items = []


def test_frames_of_a_new_feed_are_archived(tmp_path: Path) -> None:
    analyse = make_analysis(load_settings(None, {"segment.segmenter": "bragg"}))
    file = ArchiveSettings(file=str(tmp_path / "boards.nxs"), keep="all")
    series = SortedSeries(archive=file, settings_json="{}", closed=tmp_path / "c", working_size=256)
    archive_feed(Chessboards(), series, analyse=analyse, series_id="b", folder=tmp_path)
    with open_archive(tmp_path / "boards.nxs") as boards:
        assert boards.ledger.archived == 3
        np.testing.assert_array_equal(boards.frame(2), BOARD + 2)
