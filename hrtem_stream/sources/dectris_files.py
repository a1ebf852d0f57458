"""DECTRIS master files, of ARINA and other detectors: HDF5 that links to files of frames.

The master announces how many frames there are; `entry/data/data_000001` and so on link to the
files that hold them. Format: DECTRIS, "HDF5 file writer", NeXus NXmx.
"""

from __future__ import annotations

import datetime
import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hrtem_stream.errors import FrameError
from hrtem_stream.sources.calibration import stated
from hrtem_stream.sources.stack import FramePixels, FrameStack, Read, stack_shape, supported

if TYPE_CHECKING:
    import h5py

DATA_FILE: Final = re.compile(r"(.+)_data_\d{6}$")
"""Name, without its ending, of a file of frames that belongs to a master."""
_DATA: Final = "entry/data"
_DETECTOR: Final = "entry/instrument/detector"
_LINK: Final = re.compile(r"data_\d{6}$")
_MAX_FILES: Final = 100_000


def master_of(path: Path) -> Path | None:
    """Return the master file that a file of frames belongs to, None where it is no such file."""
    match = DATA_FILE.match(path.stem)
    return path.with_name(f"{match[1]}_master{path.suffix}") if match else None


def dectris_stack(path: Path, file: h5py.File) -> FrameStack | None:
    """Describe the frames behind a master file; None where it is none.

    Files of frames that are not there yet, or not any more, count as missing frames if they are
    the last ones.

    Raises
    ------
    FeedError
        When what it links to is no frames.
    FrameError
        When a file of frames is missing between others: which frames it held is not known.
    """
    import h5py

    group = file.get(_DATA)
    if not isinstance(group, h5py.Group):
        return None
    names = sorted(name for name in group if _LINK.match(name))[:_MAX_FILES]
    if not names:
        return None
    counts = [_n_frames(path, group, name) for name in names]
    there = [n for n in counts if n > 0]
    if any(n > 0 for n in counts[len(there) :]):
        gone = [name for name, n in zip(names, counts, strict=True) if n == 0]
        raise FrameError(f"cannot read {path.name}: {gone[0]} is missing between others")
    names = names[: len(there)]
    n_claimed = max(sum(there), _n_announced(file))
    start_ns = _start_ns(file)
    frame_ns = int(_number(file, "frame_time") * 1e9)
    said = stated(
        exposure_s=_number(file, "count_time") or None,
        voltage_kv=_energy_ev(file) / 1000 or None,
    )
    return FrameStack(
        path=path,
        n_frames=sum(there),
        n_missing=n_claimed - sum(there),
        reader=_reader(path, names=names, ends=list(accumulate(there))),
        name=lambda index: f"{path.stem}[{index}]",
        acquired_ns=lambda index: start_ns + index * frame_ns if start_ns else 0,
        calibration=said.calibration,
        notes=said.notes,
    )


def _reader(path: Path, *, names: list[str], ends: list[int]) -> Any:
    import h5py

    @contextmanager
    def reader() -> Iterator[Read]:
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise FrameError(f"cannot read {path.name}: {error}") from error
        with file:

            def read(index: int) -> FramePixels:
                k = bisect_right(ends, index)
                frames = file[_DATA][names[k]]
                inner = index - (ends[k - 1] if k else 0)
                return supported(np.asarray(frames[inner] if frames.ndim == 3 else frames[()]))

            yield read

    return reader


def _n_frames(path: Path, group: h5py.Group, name: str) -> int:
    """Return the number of frames behind a link, 0 where the file is not there."""
    import h5py

    try:
        frames = group[name]
    except (KeyError, OSError):
        return 0
    if not isinstance(frames, h5py.Dataset):
        return 0
    n_frames, _ = stack_shape(frames.shape, path=path)
    return n_frames


def _n_announced(file: h5py.File) -> int:
    specific = f"{_DETECTOR}/detectorSpecific"
    n_images = _scalar(file, f"{specific}/nimages")
    return int(n_images * max(1.0, _scalar(file, f"{specific}/ntrigger")))


def _energy_ev(file: h5py.File) -> float:
    for place in ("entry/instrument/beam/incident_energy", "entry/sample/beam/incident_energy"):
        value = _scalar(file, place)
        if value:
            return value
    return _scalar(file, f"{_DETECTOR}/detectorSpecific/incident_energy")


def _number(file: h5py.File, name: str) -> float:
    return _scalar(file, f"{_DETECTOR}/{name}")


def _scalar(file: h5py.File, place: str) -> float:
    import h5py

    item = file.get(place)
    if not isinstance(item, h5py.Dataset) or item.size != 1 or item.dtype.kind not in "iuf":
        return 0.0
    value = float(np.asarray(item[()]).reshape(-1)[0])
    return value if np.isfinite(value) and value > 0 else 0.0


def _start_ns(file: h5py.File) -> int:
    """Return the start in ns since 1970, 0 where it is not stated with its zone."""
    import h5py

    item = file.get(f"{_DETECTOR}/detectorSpecific/data_collection_date")
    if not isinstance(item, h5py.Dataset) or item.size != 1:
        return 0
    value = np.asarray(item[()]).reshape(-1)[0]
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return 0
    return int(moment.timestamp() * 1e9) if moment.tzinfo else 0
