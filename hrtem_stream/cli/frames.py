"""Commands on frames without the pipeline: segment, evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hrtem_stream.cli.console import (
    count_methods,
    output_errors,
    parse_values,
    print_json,
    require_paths,
    require_writable,
    say,
    settings_of,
)
from hrtem_stream.cli.options import (
    Json,
    Overwrite,
    Paths,
    PixelSizeOption,
    SegmenterOption,
    SetOption,
)
from hrtem_stream.errors import FeedError

if TYPE_CHECKING:
    from hrtem_stream.messages import SegmentedFrame


def segment(
    paths: Paths,
    output: Annotated[Path, typer.Option(help="The .npz to write.")],
    segmenter: SegmenterOption = "auto",
    pixel_size_nm: PixelSizeOption = 0.0,
    settings_values: SetOption = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Segment frames without the pipeline: masks, vacuum, graphene fractions, names.

    Masks have the size of the working image; where that differs among frames, of the largest.
    """
    import numpy as np

    from hrtem_stream.pipeline import make_scaling, make_segmenter
    from hrtem_stream.sources.files import read_frames
    from hrtem_stream.stages.offline import segment_frames

    require_paths(paths)
    require_writable(output, overwrite)
    settings = settings_of(None, {"segment.segmenter": segmenter, **parse_values(settings_values)})
    working_size = settings.normalise.working_size
    choice = make_segmenter(settings.segment, working_size=working_size)
    results = list(
        segment_frames(
            read_frames(paths),
            choice,
            working_size=working_size,
            scaling=make_scaling(settings.normalise),
            pixel_size_nm=pixel_size_nm,
        )
    )
    off_specimen = [result.vacuum | result.beam_off for result in results]
    arrays: dict[str, Any] = {
        "masks": _stacked([result.amorphous for result in results]).astype(np.uint8),
        "vacuum": np.stack(off_specimen).astype(np.uint8),
        "graphene_fraction": np.array([result.graphene_fraction for result in results]),
        "names": np.array([result.header.name for result in results]),
        "method": np.array([result.method for result in results]),
        "fault": np.array([result.header.fault for result in results]),
        "scale": np.array([result.scale for result in results]),
        "working_pixel_nm": np.array([result.working_pixel_nm for result in results]),
    }
    with output_errors(output), output.open("wb") as file:
        np.savez_compressed(file, **arrays)
    for result in results:
        if result.header.fault:
            say(f"{result.header.name}: not segmented: {result.header.fault}")
    report = {
        "output": str(output),
        "n_frames": len(results),
        "methods": count_methods([result.method for result in results]),
        "mean_graphene_fraction": float(arrays["graphene_fraction"].mean()),
        "n_faulty": sum(bool(result.header.fault) for result in results),
    }
    if as_json:
        print_json(report)
    else:
        print(f"{len(results)} frames segmented into {output}")


def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of NAME.png with NAME_LABEL.png.")],
    segmenter: SegmenterOption = "auto",
    error_maps: Annotated[
        Path | None, typer.Option(help="Folder for pictures of what was right and wrong.")
    ] = None,
    pixel_size_nm: PixelSizeOption = 0.0,
    settings_values: SetOption = None,
    as_json: Json = False,
) -> None:
    """Score the segmenter against labels drawn by hand.

    Error maps: true positives white, false positives red, false negatives blue.
    """
    from dataclasses import asdict

    from hrtem_stream.pipeline import make_scaling, make_segmenter
    from hrtem_stream.science.scores import (
        per_image_scores,
        pooled_scores,
        pooled_scores_off_edge,
    )
    from hrtem_stream.sources.files import labelled_pairs, read_frames
    from hrtem_stream.stages.offline import segment_frames

    labelled = labelled_pairs(folder)
    settings = settings_of(None, {"segment.segmenter": segmenter, **parse_values(settings_values)})
    working_size = settings.normalise.working_size
    results = segment_frames(
        read_frames([pair.image_path for pair in labelled]),
        make_segmenter(settings.segment, working_size=working_size),
        working_size=working_size,
        scaling=make_scaling(settings.normalise),
        pixel_size_nm=pixel_size_nm,
    )
    methods, pairs, maps = [], [], []
    for pair, result in zip(labelled, results, strict=True):
        methods.append(result.method)
        label = _read_label(pair.label_path, result.amorphous.shape)
        pairs.append((result.amorphous, label))
        if error_maps is not None:
            maps.append(error_maps / f"{pair.name}.png")
            _write_error_map(maps[-1], result, label)
    report = {
        **asdict(pooled_scores(pairs)),
        "per_image": asdict(per_image_scores(pairs)),
        "off_edge_2px": asdict(pooled_scores_off_edge(pairs, margin_px=2)),
        "n_images": len(pairs),
        "methods": count_methods(methods),
    }
    if as_json:
        print_json(report)
    else:
        print_scores(report)


def print_scores(report: dict[str, Any]) -> None:
    """Print the scores for people."""
    names = ("accuracy", "balanced_accuracy", "jaccard", "f1", "precision", "recall")
    print(f"{'':<20}{'pooled':>8}{'per image':>11}{'off edge':>10}")
    for name in names:
        print(
            f"{name:<20}{report[name]:8.3f}{report['per_image'][name]:11.3f}"
            f"{report['off_edge_2px'][name]:10.3f}"
        )
    print(f"{report['n_images']} images, {report['methods']}")


def _write_error_map(path: Path, result: SegmentedFrame, label: Any) -> None:
    """Write the frame and, beside it, what was right and wrong."""
    from PIL import Image

    from hrtem_stream.science.picture import error_map
    from hrtem_stream.science.working_scale import reduce_mask

    path.parent.mkdir(parents=True, exist_ok=True)
    with output_errors(path):
        small = (result.thumbnail.shape[0], result.thumbnail.shape[1])
        mask, label = (reduce_mask(bits, shape=small) for bits in (result.amorphous, label))
        picture = error_map(result.thumbnail, mask=mask, label=label)
        Image.fromarray(picture).save(path)


def _stacked(masks: Sequence[Any]) -> Any:
    """Stack masks, each enlarged to the largest by repeating pixels."""
    import numpy as np

    rows, columns = (max(mask.shape[axis] for mask in masks) for axis in (0, 1))
    return np.stack(
        [
            mask[
                np.ix_(
                    np.arange(rows) * mask.shape[0] // rows,
                    np.arange(columns) * mask.shape[1] // columns,
                )
            ]
            for mask in masks
        ]
    )


def _read_label(path: Path, shape: tuple[int, int]) -> Any:
    """Read a label as a mask at the size of the working image."""
    import cv2
    import numpy as np

    label = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if label is None:
        raise FeedError(f"label {path} cannot be read")
    if label.shape != shape:
        label = cv2.resize(label, shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(label > 127)
