"""The segmenter that the settings ask for."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hrtem_stream.errors import SegmenterError, SettingsError
from hrtem_stream.settings import SegmentSettings

if TYPE_CHECKING:
    from hrtem_stream.stages.fallback import Segmenter, WithFallback

logger = logging.getLogger(__name__)


def make_segmenter(
    settings: SegmentSettings,
    *,
    working_size: int,
    note_switch: Callable[[str], None] = lambda reason: None,
    wrap: Callable[[Segmenter], Segmenter] = lambda choice: choice,
) -> WithFallback:
    """Give the segmenter that the settings ask for, with the Bragg filter behind it.

    `auto` takes the U-Net where torch and its weights are to be had and, on a processor, an image
    does not take it longer than `slowest_s`; else the Bragg filter. `wrap` goes around the choice.

    Raises
    ------
    SettingsError
        The U-Net is asked for by name and is not to be had.
    """
    from hrtem_stream.stages.fallback import BraggSegmenter, WithFallback

    bragg = BraggSegmenter()
    choice: Segmenter = bragg
    if settings.segmenter != "bragg":
        try:
            choice = _load_unet(settings, working_size)
        except SegmenterError as error:
            if settings.segmenter == "unet":
                raise SettingsError(f"segment.segmenter = unet: {error}") from None
            logger.warning("the Bragg filter segments, not the U-Net: %s", error)
            note_switch(error.reason)
    return WithFallback(
        wrap(choice), fallback=bragg, oldest_s=settings.oldest_s, note_switch=note_switch
    )


def _load_unet(settings: SegmentSettings, working_size: int) -> Segmenter:
    """Load and warm the U-Net.

    Raises
    ------
    SegmenterError
        It cannot be had, or is too slow for `auto`.
    """
    try:
        from hrtem_stream.unet.door import load_unet
    except ImportError as error:
        message = f"torch is not installed ({error}); pip install 'hrtem-stream[unet]'"
        raise SegmenterError(message, "not_installed") from None
    return load_unet(
        Path(settings.weights) if settings.weights else None,
        working_size=working_size,
        max_batch=settings.batch_frames,
        four_flips=settings.four_flips,
        engine=settings.engine,
        slowest_s=settings.slowest_s if settings.segmenter == "auto" else math.inf,
    )
