"""The command that finds settings for this machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hrtem_stream.cli.console import print_json
from hrtem_stream.cli.options import Json, SegmenterOption
from hrtem_stream.errors import SettingsError


def tune(
    output: Annotated[Path, typer.Argument(help="The settings file to write (TOML).")],
    size: Annotated[int, typer.Option(help="Width and height of a frame in pixels.")] = 1024,
    segmenter: SegmenterOption = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Time each stage on this machine, and write codec, threads and workers that suit it."""
    from hrtem_stream.pipeline.tuning import choose, time_stages

    if output.exists() and not overwrite:
        raise SettingsError(f"{output} exists; --overwrite replaces it")
    n_processors = len(os.sched_getaffinity(0))
    timings = time_stages(size, segmenter=segmenter)
    choice = choose(timings, n_processors=n_processors)
    output.write_text(choice.as_toml(), encoding="utf-8")
    if as_json:
        print_json({"timings_ms": asdict(timings), "choice": asdict(choice), "file": str(output)})
        return
    codecs = ", ".join(f"{name} {value:.2f}" for name, value in timings.encode.items())
    print(f"ms a frame of {size}²: normalise {timings.normalise:.2f}, "
          f"segment ({timings.segmenter}) {timings.segment:.2f}, encode: {codecs}")  # fmt: skip
    print(f"{choice.frames_per_s:.0f} frames/s at most with {n_processors} processors; transport, "
          "writing and other programs take their share")  # fmt: skip
    print(f"written   {output}")
    print(choice.as_toml(), end="")
