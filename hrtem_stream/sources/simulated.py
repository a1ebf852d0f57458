"""The simulated feed: a camera above a specimen that is made up as it is looked at."""

from __future__ import annotations

from typing import Final

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import (
    Calibration,
    FeedFinished,
    FeedFrame,
    FeedItem,
    FeedPosition,
    SeriesStart,
)
from hrtem_stream.sources.pacing import Rate, pace_of
from hrtem_stream.sources.playback import Playback

FEED: Final = "simulated"


class SimulatedSource:
    """Gives one series of made-up frames, the same ones for the same seed."""

    def __init__(
        self,
        *,
        n_frames: int,
        size: int,
        seed: int,
        series: str = "simulated",
        rate: Rate = "max",
    ) -> None:
        """Note what to simulate.

        Parameters
        ----------
        n_frames
            Length of the series.
        size
            Height and width of a frame in pixels.
        seed
            Seed of everything random. Frame i depends on it and on i alone, so that a restarted
            series goes on with the same frames.
        series
            Name of the series.
        rate
            Frames per second, or "max".
        """
        self.can_wait = True
        self._n_frames = n_frames
        self._size = size
        self._seed = seed
        self._series = series
        self._rate = rate
        self._playbacks: list[Playback] = []

    def open(self, position: FeedPosition | None) -> None:
        """Make the specimen.

        Raises
        ------
        FeedError
            When `position` is not in this series, or the settings allow no specimen.
        """
        from hrtem_stream.science.synthetic import SyntheticSeries

        if self._rate == "real":
            raise FeedError("simulated frames have no times of acquisition, rate cannot be real")
        try:
            scene = SyntheticSeries(shape=(self._size, self._size), seed=self._seed)
        except ValueError as error:
            raise FeedError(f"cannot simulate: {error}") from error

        def frame(sequence: int) -> FeedFrame:
            pixels = scene.frame(sequence).pixels
            pixels.flags.writeable = False
            return FeedFrame(
                sequence=sequence,
                pixels=pixels,
                name=f"{self._series}[{sequence}]",
                series=self._series,
            )

        start = SeriesStart(
            series=self._series,
            n_expected=self._n_frames,
            feed=FEED,
            calibration=Calibration(
                pixel_size_nm=scene.pixel_size_nm,
                dose_e_per_nm2=scene.dose_e_per_nm2,
                voltage_kv=80.0,
            ),
            metadata={"seed": str(self._seed)},
        )
        playback = Playback(
            start,
            position=position,
            n_frames=self._n_frames,
            frame=frame,
            acquired_ns=lambda sequence: 0,
            pace=pace_of(self._rate),
        )
        self._playbacks[:] = [playback]

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Return the next item, None when it is not due within `timeout_s`."""
        if not self._playbacks:
            return FeedFinished()
        return self._playbacks[0].receive(timeout_s)

    def close(self) -> None:
        """Forget the specimen."""
        self._playbacks.clear()
