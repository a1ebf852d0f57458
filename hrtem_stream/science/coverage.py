"""How much of the field of view is graphene, amorphous, vacuum, or without beam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Shares of the whole field of view, each 0 to 1; together they are 1."""

    graphene_fraction: float
    amorphous_fraction: float
    vacuum_fraction: float
    beam_off_fraction: float


def coverage(
    amorphous: NDArray[np.bool_], vacuum: NDArray[np.bool_], beam_off: NDArray[np.bool_]
) -> Coverage:
    """Share out the field of view among graphene, amorphous, vacuum and beam-off.

    Every pixel counts once. Where masks overlap, beam-off goes before vacuum and vacuum before
    amorphous: without beam nothing can be seen, and where the beam meets nothing there is no
    contaminant either. Graphene is what no mask claims, over the *whole* field of view, so that
    an empty hole and a blank frame have graphene fraction 0.

    Parameters
    ----------
    amorphous, vacuum, beam_off
        (P, Q) bool, not empty.

    Raises
    ------
    ValueError
        If the masks differ in shape, are empty, or are not boolean.
    """
    for name, mask in (("amorphous", amorphous), ("vacuum", vacuum), ("beam_off", beam_off)):
        if mask.dtype != np.bool_:
            raise ValueError(f"{name} must be boolean, got {mask.dtype}")
        if mask.shape != amorphous.shape or mask.size == 0:
            raise ValueError(
                f"{name} must have the shape of amorphous, {amorphous.shape}, and not be empty, "
                f"got {mask.shape}"
            )
    n_pixels = amorphous.size
    seen = ~beam_off
    n_vacuum = int(np.count_nonzero(vacuum & seen))
    n_amorphous = int(np.count_nonzero(amorphous & seen & ~vacuum))
    n_beam_off = int(np.count_nonzero(beam_off))
    return Coverage(
        graphene_fraction=(n_pixels - n_beam_off - n_vacuum - n_amorphous) / n_pixels,
        amorphous_fraction=n_amorphous / n_pixels,
        vacuum_fraction=n_vacuum / n_pixels,
        beam_off_fraction=n_beam_off / n_pixels,
    )
