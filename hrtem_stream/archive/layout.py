"""What lies where in an archive, and how a new one is laid out.

    /entry                  NXentry, default=images
      images                NXdata: image [frame, y, x] and its axes
      scores                one value a frame each: fractions, rank, method, digests, times
      runs                  frame_offset (F+1), start, length, value: frame i has the runs
                            frame_offset[i] to frame_offset[i + 1]
      illumination          coefficients (F, d+1, d+1)
      thumbnails            the working images (F, P, Q)
      vacuum, beam_off      bits (F, ⌈P Q / 8⌉): masks, eight pixels a byte, first pixel highest
      set_aside             frames that do not fit the image dataset, byte for byte
      ledger                what was received, archived and lost
      process               NXprocess: version, settings, weights
      ranked                NXdata: the same images, best first; added when the series ends

Names are a contract with everybody's scripts.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.archive.codec import Codec, filters_of
from hrtem_stream.archive.encoding import Keep, chunk_shape
from hrtem_stream.checked import checked_record
from hrtem_stream.messages import Calibration, SeriesStart

LIBVER = ("v108", "v110")
"""Older tables than h5py's newest: other programs read them."""
TEXT_BYTES = 255
"""Longest text of a frame, in UTF-8; longer ones end in an ellipsis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonHeader:
    """What is known of every archive of a session, before there is a series."""

    provenance: dict[str, str]
    working_shape: tuple[int, int]
    coefficients_shape: tuple[int, int]

    def fields(self) -> dict[str, Any]:
        """Give its fields, to be those of an `ArchiveHeader`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveHeader:
    """What is known of an archive before its first frame; stored in it as JSON."""

    start: SeriesStart
    shape: tuple[int, int]
    dtype: str
    codec: Codec
    keep: Keep
    provenance: dict[str, str]
    """Version, settings, digest of the weights: all as text."""
    log_id: int
    ordinal: int
    """Of the record that began the series; -1 when it is not known."""
    first_row: int
    """Row in the series of the first frame of this file."""
    working_shape: tuple[int, int]
    coefficients_shape: tuple[int, int]

    @property
    def common(self) -> CommonHeader:
        """What it shares with those of other series."""
        return CommonHeader(
            provenance=self.provenance,
            working_shape=self.working_shape,
            coefficients_shape=self.coefficients_shape,
        )

    def to_json(self) -> str:
        """Return all fields as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ArchiveHeader:
        """Return the header that `to_json` wrote.

        Raises
        ------
        ValueError, KeyError, TypeError
            If the text is not that.
        """
        fields = json.loads(text)
        start = SeriesStart(**fields.pop("start"))
        calibration = Calibration(**start.calibration)  # type: ignore[arg-type]
        for name in ("shape", "working_shape", "coefficients_shape"):
            fields[name] = tuple(fields[name])
        checked_record(calibration)
        start = checked_record(replace(start, calibration=calibration))
        return checked_record(cls(start=start, **fields))


@dataclass(frozen=True, slots=True)
class Field:
    """One dataset that holds one value a frame."""

    name: str
    dtype: str
    """numpy's, or text:N for UTF-8 of at most N bytes."""
    units: str
    meaning: str


SCORES = (
    Field("graphene_fraction", "<f8", "", "graphene in the field of view"),
    Field("amorphous_fraction", "<f8", "", "amorphous material in the field of view"),
    Field("vacuum_fraction", "<f8", "", "vacuum in the frame"),
    Field("beam_off_fraction", "<f8", "", "frame outside the beam"),
    Field("method", "text:16", "", "unet, bragg or none"),
    Field("confidence", "<f4", "", "how sure the segmenter was; NaN where it cannot tell"),
    Field("agreement", "<f4", "", "pixels on which U-Net and Bragg agree; NaN unless sampled"),
    Field("scale", "text:16", "", "size of the working image from: resize, calibration, ..."),
    Field("working_pixel", "<f4", "nm", "size of a working pixel; NaN where it is not known"),
    Field("working_rows", "<i4", "", "height of the working image"),
    Field("working_columns", "<i4", "", "width of the working image"),
    Field("attempt", "<i4", "", "how often the frame was published until it came through"),
    Field("latency", "<f8", "s", "from received to archived"),
    Field("digest", "<u8", "", "xxh3, 64 bit, of the pixel bytes as received"),
    Field("stored_digest", "<u8", "", "xxh3, 64 bit, of the pixel bytes as stored"),
    Field("working_digest", "<u8", "", "the same of thumbnail, masks, coefficients and runs"),
    Field("sequence", "<i8", "", "number of the frame at the feed"),
    Field("ordinal", "<i8", "", "number of the record in the frame log"),
    Field("name", f"text:{TEXT_BYTES}", "", "name of the frame at the feed"),
    Field("fault", f"text:{TEXT_BYTES}", "", "why the frame could not be analysed, or empty"),
    Field("acquired_ns", "<i8", "ns", "acquired, since 1970; 0 where the feed does not say"),
    Field("received_ns", "<i8", "ns", "received, since 1970"),
    Field("archived_ns", "<i8", "ns", "archived, since 1970"),
    Field("raw_bytes", "<u8", "B", "size as received"),
    Field("stored_bytes", "<u8", "B", "size of the compressed pixels"),
)

BULK = "NXdata"
"""Class of the groups of tables, which have no signal to plot: HyperSpy reads the arrays of groups
of any other class into memory as metadata, and fails on empty ones."""

RUNS_PER_CHUNK = 16_384
ROWS_PER_CHUNK = 512
TEXTS_PER_CHUNK = 128
BYTES_PER_CHUNK = 1 << 16


def lay_out(file: h5py.File, common: CommonHeader) -> None:
    """Create what archives of all series have in common: groups, and nearly all datasets."""
    file.attrs["default"] = "entry"
    file.attrs["NX_class"] = "NXroot"
    entry = _group(file, "entry", "NXentry")
    process = _group(entry, "process", "NXprocess")
    process["program"] = "hrtem_stream"
    for name, text in common.provenance.items():
        process[printable(name).replace("/", "_")] = printable(text)
    _lay_out_images(entry)
    _lay_out_tables(entry, common)
    _group(entry, "calibration", "NXcollection")
    _group(entry, "feed", "NXcollection")
    _lay_out_ledger(entry)


def lay_out_series(file: h5py.File, header: ArchiveHeader) -> None:
    """Add what depends on the series: what the feed says of it, and the datasets of its dtype."""
    entry = file["entry"]
    entry["title"] = printable(header.start.series)
    if header.start.started_ns:
        entry["start_time"] = iso_time(header.start.started_ns)
    process = entry["process"]
    process.attrs["header"] = header.to_json()
    process.attrs["codec"] = header.codec
    process.attrs["keep"] = header.keep
    _add_image(entry["images"], header)
    image_axes(entry["images"], header)
    column(entry["runs"], "value", header.dtype, rows=RUNS_PER_CHUNK)
    _describe_feed(entry, header.start)
    ledger = entry["ledger"]
    ledger.attrs["series_id"] = printable(header.start.series_id)
    ledger.attrs["log_id"] = header.log_id
    ledger.attrs["first_ordinal"] = header.ordinal
    ledger.attrs["first_row"] = header.first_row
    ledger.attrs["complete"] = False


def iso_time(time_ns: int) -> str:
    """Return nanoseconds since 1970 as ISO 8601 in UTC, to the microsecond."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.replace(microsecond=rest // 1000).isoformat()


def printable(text: str) -> str:
    """Return a text as HDF5 can hold it: without NUL, and UTF-8."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def text_of(text: str, n_bytes: int) -> bytes:
    """Return a text as UTF-8 of at most so many bytes; a longer one ends in an ellipsis."""
    utf8 = printable(text).encode()
    if len(utf8) <= n_bytes:
        return utf8
    return utf8[: n_bytes - 3].decode("utf-8", "ignore").encode() + "…".encode()


def texts_of(texts: Sequence[str], n_bytes: int) -> NDArray[np.bytes_]:
    """Return texts as a column of HDF5 holds them, see `text_of`."""
    return np.array([text_of(text, n_bytes) for text in texts], f"S{n_bytes}")


def image_axes(entry: h5py.Group, header: ArchiveHeader) -> None:
    """Write the y and x axes: nanometres where the pixel size is known, else pixels."""
    size_nm = header.start.calibration.pixel_size_nm
    for name, n in zip("yx", header.shape, strict=True):
        axis = entry.create_dataset(name, data=np.arange(n, dtype="<f8") * (size_nm or 1.0))
        axis.attrs["units"] = "nm" if size_nm else "px"


def mark_default(entry: h5py.Group) -> None:
    """Name the default plot; an archive without frames has none."""
    entry.attrs["default"] = "images"


def column(
    group: h5py.Group,
    name: str,
    dtype: str,
    *,
    rows: int,
    trailing: tuple[int, ...] = (),
    codec: Codec = "deflate",
) -> h5py.Dataset:
    """Create an empty dataset that grows by rows."""
    kind, _, n_bytes = dtype.partition(":")
    if kind == "text":
        stored: Any = h5py.string_dtype("utf-8", int(n_bytes))
    else:
        stored = np.dtype(dtype)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((rows, *trailing))
    for number in filters_of(codec, np.dtype(stored.str)):
        plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, _filter_values(number, stored.itemsize))
    space = h5py.h5s.create_simple((0, *trailing), (h5py.h5s.UNLIMITED, *trailing))
    kind_id = h5py.h5t.py_create(stored, logical=True)
    created = h5py.h5d.create(group.id, name.encode(), kind_id, space, plist)
    return h5py.Dataset(created)


def _filter_values(number: int, itemsize: int) -> tuple[int, ...]:
    # What HDF5 itself notes for shuffle is the size of a value, for the codecs their level.
    return (itemsize,) if number == 2 else (1,)


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _lay_out_images(entry: h5py.Group) -> None:
    images = _group(entry, "images", "NXdata")
    images.attrs["signal"] = "image"
    images.attrs["axes"] = ["frame", "y", "x"]
    images.attrs["interpretation"] = "image"
    frame = column(images, "frame", "<i8", rows=ROWS_PER_CHUNK)
    frame.attrs["long_name"] = "row of the frame in the series"


def _add_image(images: h5py.Group, header: ArchiveHeader) -> None:
    rows, N = chunk_shape(header.shape, dtype=np.dtype(header.dtype))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1, rows, N))
    dtype = np.dtype(header.dtype)
    for number in filters_of(header.codec, dtype):
        plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, _filter_values(number, dtype.itemsize))
    space = h5py.h5s.create_simple((0, *header.shape), (h5py.h5s.UNLIMITED, *header.shape))
    kind = h5py.h5t.py_create(dtype, logical=True)
    image = h5py.Dataset(h5py.h5d.create(images.id, b"image", kind, space, plist))
    image.attrs["interpretation"] = "image"
    image.attrs["units"] = "counts"
    image.attrs["long_name"] = (
        "detector counts, amorphous runs replaced by their mean"
        if header.keep == "graphene"
        else "detector counts"
    )


def _lay_out_tables(entry: h5py.Group, common: CommonHeader) -> None:
    scores = _group(entry, "scores", "NXdata")
    scores.attrs["signal"] = "graphene_fraction"
    scores.attrs["axes"] = ["frame"]
    scores["frame"] = entry["images/frame"]
    for field in SCORES:
        text = field.dtype.startswith("text")
        rows = TEXTS_PER_CHUNK if text else ROWS_PER_CHUNK
        dataset = column(scores, field.name, field.dtype, rows=rows)
        dataset.attrs["long_name"] = field.meaning
        if field.units:
            dataset.attrs["units"] = field.units

    runs = _group(entry, "runs", BULK)
    column(runs, "frame_offset", "<u8", rows=ROWS_PER_CHUNK)
    column(runs, "start", "<u4", rows=RUNS_PER_CHUNK)
    column(runs, "length", "<u4", rows=RUNS_PER_CHUNK)

    P, Q = common.working_shape
    illumination = _group(entry, "illumination", "NXcollection")
    coefficients = column(
        illumination, "coefficients", "<f4", rows=64, trailing=common.coefficients_shape
    )
    coefficients.attrs["units"] = "counts"
    coefficients.attrs["long_name"] = "Bézier coefficients of the illumination, per frame"
    thumbnails = _group(entry, "thumbnails", "NXdata")
    thumbnails.attrs["signal"] = "image"
    thumbnails.attrs["interpretation"] = "image"
    thumbnail = column(thumbnails, "image", "|u1", rows=1, trailing=(P, Q), codec="none")
    thumbnail.attrs["long_name"] = "working image from -3 to +3 deviations"
    for name in ("vacuum", "beam_off"):
        mask = _group(entry, name, BULK)
        bits = column(mask, "bits", "|u1", rows=1, trailing=(-(-P * Q // 8),))
        bits.attrs["shape"] = common.working_shape
        bits.attrs["long_name"] = "mask of the working image, packed, first pixel highest bit"

    aside = _group(entry, "set_aside", BULK)
    column(aside, "bytes", "|u1", rows=BYTES_PER_CHUNK)
    column(aside, "offset", "<u8", rows=ROWS_PER_CHUNK)
    column(aside, "row", "<u8", rows=ROWS_PER_CHUNK)
    column(aside, "shape", "<u8", rows=ROWS_PER_CHUNK, trailing=(2,))
    column(aside, "dtype", "text:16", rows=TEXTS_PER_CHUNK)
    column(aside, "reason", f"text:{TEXT_BYTES}", rows=TEXTS_PER_CHUNK)


def _describe_feed(entry: h5py.Group, start: SeriesStart) -> None:
    calibration, feed = entry["calibration"], entry["feed"]
    known = start.calibration
    for name, value, units in (
        ("pixel_size_nm", known.pixel_size_nm, "nm"),
        ("exposure_s", known.exposure_s, "s"),
        ("dose_e_per_nm2", known.dose_e_per_nm2, "1/nm^2"),
        ("voltage_kv", known.voltage_kv, "kV"),
    ):
        if value is not None:
            calibration[name] = float(value)
            calibration[name].attrs["units"] = units
    feed.attrs["kind"] = printable(start.feed)
    for name, text in start.metadata.items():
        # An attribute, whose name may hold a slash.
        feed.attrs[printable(name) or "unnamed"] = printable(text)


def _lay_out_ledger(entry: h5py.Group) -> None:
    ledger = _group(entry, "ledger", "NXcollection")
    declared = _group(ledger, "declared", BULK)
    column(declared, "first", "<i8", rows=ROWS_PER_CHUNK)
    column(declared, "n_frames", "<i8", rows=ROWS_PER_CHUNK)
    column(declared, "reason", f"text:{TEXT_BYTES}", rows=TEXTS_PER_CHUNK)
    column(declared, "ordinal", "<i8", rows=ROWS_PER_CHUNK)
