"""Small series of frames for the tests of the archive."""

import numpy as np

from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.writer import ArchiveWriter
from hrtem_stream.messages import (
    Calibration,
    Delivery,
    FrameHeader,
    SegmentedFrame,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.science.coverage import coverage

WORKING_SHAPE = (16, 16)


def start(**known):
    values = {"series": "island", "series_id": "id-1", "feed": "simulated", "started_ns": 10**18}
    return SeriesStart(**(values | known))


def calibrated():
    return start(calibration=Calibration(pixel_size_nm=0.02, exposure_s=0.5), metadata={"a/b": "c"})


def pixels_of(row, *, shape=(40, 48), dtype="<u2"):
    rng = np.random.default_rng(row)
    return rng.poisson(100, shape).astype(dtype)


def mask_of(row):
    rng = np.random.default_rng([row, 1])
    centre, radius = rng.uniform(0, 16, 2), rng.uniform(2, 9)
    p, q = np.indices(WORKING_SHAPE)
    return np.hypot(p - centre[0], q - centre[1]) < radius


def segmented(row, *, pixels=None, digest=None, **changes):
    """Make a SegmentedFrame; its masks and fractions agree."""
    pixels = pixels_of(row) if pixels is None else pixels
    if digest is None:
        import xxhash

        digest = xxhash.xxh3_64_intdigest(pixels.tobytes())
    header = {
        "series": "island",
        "series_id": "id-1",
        "sequence": row,
        "row": row,
        "shape": pixels.shape if pixels.ndim == 2 else (pixels.size, 0),
        "dtype": pixels.dtype.str,
        "digest": digest,
        "received_ns": 10**18 + row * 10**6,
        "acquired_ns": 10**18 + row,
        "name": f"frame {row} ångström",
    }
    amorphous, vacuum, beam_off = mask_of(row), mask_of(row + 1000), mask_of(row + 2000)
    shares = coverage(amorphous, vacuum, beam_off)
    frame = {
        "delivery": Delivery(log_id=7, ordinal=row + 1, offset=0, pub=row, shard=0, floor=0),
        "amorphous": amorphous,
        "vacuum": vacuum,
        "beam_off": beam_off,
        "coefficients": np.full((3, 3), row, np.float32),
        "thumbnail": np.full(WORKING_SHAPE, row % 256, np.uint8),
        "method": "bragg",
        "graphene_fraction": shares.graphene_fraction,
        "amorphous_fraction": shares.amorphous_fraction,
        "vacuum_fraction": shares.vacuum_fraction,
        "beam_off_fraction": shares.beam_off_fraction,
    }
    header |= {key: changes.pop(key) for key in list(changes) if key in header or key == "fault"}
    return SegmentedFrame(header=FrameHeader(**header), **(frame | changes))


def create(path, *, codec="deflate", keep="graphene", shape=(40, 48), dtype="<u2", **more):
    more = {"start": start(), "log_id": 7, "ordinal": 0, "provenance": {"version": "1"}} | more
    return ArchiveWriter.create(
        path, shape=shape, dtype=dtype, codec=codec, keep=keep, working_shape=WORKING_SHAPE, **more
    )


def rows(first, n, *, encoder):
    """Return n consecutive frames, ready to be appended."""
    batch = []
    for row in range(first, first + n):
        pixels = pixels_of(row, shape=encoder.shape, dtype=encoder.dtype)
        frame = segmented(row, pixels=pixels)
        batch.append((frame, encoder.encode(pixels, frame.amorphous)))
    return batch


def archive_of(path, n, *, codec="deflate", keep="graphene", shape=(40, 48), dtype="<u2", **more):
    """Write a whole archive of n frames."""
    encoder = FrameEncoder(shape, dtype=dtype, codec=codec, keep=keep)
    writer = create(path, codec=codec, keep=keep, shape=shape, dtype=dtype, **more)
    for first in range(0, n, 7):
        batch = rows(first, min(7, n - first), encoder=encoder)
        writer.append(batch, archived_ns=10**18 + 10**9)
    writer.close(SeriesEnd(n_received=n), ordinal=n + 1)
    return path
