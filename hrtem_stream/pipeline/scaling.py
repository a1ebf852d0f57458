"""The rule by which frames are brought to a working size, as the settings ask for it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hrtem_stream.settings import NormaliseSettings

if TYPE_CHECKING:
    from hrtem_stream.science.working_scale import Scaling


def make_scaling(settings: NormaliseSettings) -> Scaling:
    """Give the rule of `normalise.mode`."""
    from hrtem_stream.science.working_scale import matched_to_lattice, resized

    if settings.mode == "resize":
        return partial(resized, size=settings.working_size)
    return partial(
        matched_to_lattice, size=settings.working_size, working_pixel_nm=settings.working_pixel_nm
    )
