"""Feeds every decoder with spoilt input: `python -m tests.fuzz --seconds 600 --seed 1`.

Sound messages and files, and the corpus of hostile ones, are cut, flipped, spliced and padded. A
decoder may refuse what it gets, with one of the project's errors; anything else is a failure, and
so is more memory than this process is given. What failed is kept under `fuzz-failures/`.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgpack
import numpy as np

from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.verify import verify
from hrtem_stream.errors import HrtemError
from hrtem_stream.sources.files import open_frames
from hrtem_stream.sources.native_wire import FeedLimits, decode_feed_message
from hrtem_stream.transport.delivery import Acknowledgement
from hrtem_stream.transport.frame_log import FrameLog, read_log
from hrtem_stream.transport.summaries import decode_status, decode_summary
from hrtem_stream.transport.wire import decode, decode_record, encode, encode_record
from tests.hostile_wire import FAULTY, PIXELS, REJECTED, START
from tests.stages.frames import header, normalised, raw, segmented

MORE_MEMORY_BYTES = 2 << 30
HARD = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8)
"""What is hard on decoders: ends of ranges, and claims of length in msgpack."""

Parts = list[bytes]


class Target(NamedTuple):
    """A decoder, and what it is fed with before that is spoilt."""

    feed: Callable[[Parts], object]
    seeds: Sequence[Parts]


class Failure(NamedTuple):
    """What a decoder did that it must not do."""

    target: str
    parts: Parts
    trace: str


def fuzz(
    targets: dict[str, Target], *, seed: int, n_rounds: int | None = None, seconds: float = 1e9
) -> tuple[int, list[Failure]]:
    """Spoil and feed, in rounds over all targets; give the number of inputs, and the failures."""
    rng = np.random.default_rng(seed)
    until_s = time.monotonic() + seconds
    failures: list[Failure] = []
    n_inputs = 0
    while n_rounds is None or n_inputs < n_rounds * len(targets):
        for name, target in targets.items():
            parts = spoilt(target.seeds, rng)
            n_inputs += 1
            try:
                target.feed(parts)
            except HrtemError:
                continue
            except Exception:
                failures.append(Failure(name, parts, traceback.format_exc()))
        if time.monotonic() > until_s or len(failures) > 20:
            break
    return n_inputs, failures


def spoilt(seeds: Sequence[Parts], rng: np.random.Generator) -> Parts:
    """Take a seed and do one to four things to it."""
    parts = [bytearray(part) for part in seeds[rng.integers(len(seeds))]]
    for _ in range(rng.integers(1, 5)):
        if not parts:
            break
        which = int(rng.integers(len(parts)))
        part = parts[which]
        at = int(rng.integers(len(part) + 1))
        # Heads and headers are short: half of the time it is they that are hit.
        at = at if rng.random() < 0.5 else min(at, int(rng.integers(96)))
        match rng.integers(7):
            case 0 if part:
                part[min(at, len(part) - 1)] ^= 1 << int(rng.integers(8))
            case 1:
                del part[at:]
            case 2:
                del part[at : at + int(rng.integers(1, 9))]
            case 3:
                part[at:at] = HARD[rng.integers(len(HARD))]
            case 4:
                word = HARD[rng.integers(len(HARD))]
                part[at : at + len(word)] = word
            case 5:
                other = seeds[rng.integers(len(seeds))]
                if other:
                    tail = other[min(which, len(other) - 1)]
                    part[at:] = tail[min(at, len(tail)) :]
            case _:
                parts.insert(which, bytearray(part[:at])) if rng.random() < 0.5 else parts.pop()
    return [bytes(part) for part in parts]


@contextmanager
def all_targets(folder: Path) -> Iterator[dict[str, Target]]:
    """Make every target, with files in a folder."""
    yield {**_wire_targets(), **_file_targets(folder)}


def _wire_targets() -> dict[str, Target]:
    messages = [raw(), normalised(), segmented()]
    stage = [[bytes(part) for part in encode(message)] for message in messages]
    feed = [
        [msgpack.packb(START)],
        *(parts for _, parts in REJECTED.values()),
        *FAULTY.values(),
        [FAULTY["too few bytes"][0], PIXELS],
    ]
    state = Acknowledgement(log_id=1, incarnation=2, base=3, held=b"\x05", horizon={0: 4, 1: 9})

    def one(decoder: Callable[[bytes], object]) -> Callable[[Parts], object]:
        return lambda parts: decoder(b"".join(parts))

    return {
        "stages": Target(decode, stage),
        "records": Target(one(decode_record), [[encode_record(header())]]),
        "summaries": Target(decode_summary, stage),
        "statuses": Target(decode_status, stage),
        "acknowledgements": Target(one(Acknowledgement.decode), [[state.encode()]]),
        "native feed": Target(lambda parts: decode_feed_message(parts, limits=FeedLimits()), feed),
    }


def _file_targets(folder: Path) -> dict[str, Target]:
    import h5py
    import mrcfile
    import tifffile
    from PIL import Image

    from tests.archive.series import archive_of

    images = np.random.default_rng(0).poisson(100, (3, 24, 20)).astype(np.uint16)
    np.save(folder / "s.npy", images)
    np.savez_compressed(folder / "s.npz", images=images)
    tifffile.imwrite(folder / "s.tif", images, imagej=True)
    Image.fromarray(images[0].astype(np.uint8)).save(folder / "s.png")
    with mrcfile.new(folder / "s.mrc") as mrc:
        mrc.set_data(images.astype(np.int16))
    with h5py.File(folder / "s.h5", "w") as file:
        file.create_dataset("frames", data=images, chunks=(1, 24, 20), compression="gzip")
    archive = archive_of(folder / "a.nxs", 3)
    log = FrameLog.create(folder / "a.log", 16_384)
    for image in images:
        log.append(1, encode_record(header(shape=image.shape)), b"account", image)
    log.close()

    def of(path: Path, read: Callable[[Path], object]) -> Target:
        spoilt_path = folder / f"spoilt{path.suffix}"

        def feed(parts: Parts) -> None:
            spoilt_path.write_bytes(b"".join(parts))
            read(spoilt_path)

        return Target(feed, [[path.read_bytes()]])

    suffixes = (".npy", ".npz", ".tif", ".png", ".mrc", ".h5")
    return {
        **{suffix: of(folder / f"s{suffix}", _read_frames) for suffix in suffixes},
        "archive": of(archive, _read_archive),
        "frame log": of(folder / "a.log", read_log),
    }


def _read_frames(path: Path) -> None:
    files = open_frames([path])
    try:
        for index in range(min(files.n_frames, 4)):
            if files.missing(index) is None:
                files.read(index)
    finally:
        files.close()


def _read_archive(path: Path) -> None:
    verify(path)
    with open_archive(path) as archive:
        for row in range(min(len(archive), 4)):
            archive.frame(row)
            archive.mask(row)
            archive.thumbnail(row)


def main() -> int:
    """Fuzz for a time; keep and name what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    chosen = parser.parse_args()
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = n_pages * resource.getpagesize() + MORE_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with tempfile.TemporaryDirectory() as folder, all_targets(Path(folder)) as targets:
        n_inputs, failures = fuzz(targets, seed=chosen.seed, seconds=chosen.seconds)
    for number, failure in enumerate(failures):
        chosen.failures.mkdir(exist_ok=True)
        kept = chosen.failures / f"{failure.target.strip('.').replace(' ', '-')}-{number}.msgpack"
        kept.write_bytes(msgpack.packb(failure.parts))
        print(f"{failure.target}: {kept}\n{failure.trace}")
    print(f"seed {chosen.seed}: {n_inputs} inputs, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
