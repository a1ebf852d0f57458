"""normalise and segment as the settings ask for them, for work without processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hrtem_stream.settings import Settings

if TYPE_CHECKING:
    from hrtem_stream.stages.normalise import Normalise, PixelReader
    from hrtem_stream.stages.segment import Segment
    from hrtem_stream.stages.solitary import Analysis


def make_analysis(settings: Settings) -> Analysis:
    """Give the analysis; its stages are made when the first frame comes.

    Raises
    ------
    SettingsError
        A reference of the camera cannot be used.
    """
    from hrtem_stream.pipeline.camera import make_camera
    from hrtem_stream.pipeline.scaling import make_scaling
    from hrtem_stream.pipeline.segmenter import make_segmenter
    from hrtem_stream.stages.normalise import Normalise
    from hrtem_stream.stages.segment import Segment
    from hrtem_stream.stages.solitary import Analysis

    working_size = settings.normalise.working_size
    camera = make_camera(settings)

    def normalise(reader: PixelReader) -> Normalise:
        return Normalise(
            reader, working_size=working_size, camera=camera,
            scaling=make_scaling(settings.normalise),
        )  # fmt: skip

    def segment() -> Segment:
        segmenter = make_segmenter(settings.segment, working_size=working_size)
        return Segment(
            segmenter, working_size=working_size,
            agreement_share=settings.segment.agreement_share,
        )  # fmt: skip

    return Analysis(normalise, segment)
