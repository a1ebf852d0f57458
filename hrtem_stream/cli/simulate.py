"""The command that stands in for an instrument: simulate, into a file or as a feed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hrtem_stream.cli.console import output_errors, print_json, require_paths, require_writable, say
from hrtem_stream.cli.options import Json, Overwrite
from hrtem_stream.errors import FeedError, SettingsError

FeedName = Literal["native", "dectris", "merlin"]
Depth = Literal["U08", "U16", "U32", "R1", "R6", "R12", "R24"]
N_IMAGES = 16
"""So many different frames are made, and sent over and over."""
ENDPOINTS: dict[str, str] = {
    "native": "tcp://127.0.0.1:5555",
    "dectris": "tcp://127.0.0.1:31001",
    "merlin": "tcp://127.0.0.1:6342",
}


def simulate(
    output: Annotated[Path | None, typer.Option(help="The .npz to write: images, labels.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Number of frames, of each series.")] = 10,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Side of a frame in pixels.")] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    kind: Annotated[
        Literal["camera", "physical"],
        typer.Option(help="camera: quick, for demonstration; physical: for training."),
    ] = "camera",
    feed: Annotated[
        FeedName | None, typer.Option(help="Serve a detector's feed instead of writing a file.")
    ] = None,
    endpoint: Annotated[str, typer.Option(help="Where the feed is served.")] = "",
    paths: Annotated[
        list[str] | None, typer.Option("--from", help="Files whose frames the feed sends.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0, help="Frames per second; 0: as taken.")] = 0.0,
    series: Annotated[int, typer.Option(min=1, help="Number of series.")] = 1,
    gaps: Annotated[str, typer.Option(help="Frames that are dropped, such as 3,7-9.")] = "",
    damage: Annotated[str, typer.Option(help="Frames that are cut short, likewise.")] = "",
    abort_after: Annotated[int, typer.Option(min=0, help="Abort each series there.")] = 0,
    counted: Annotated[bool, typer.Option(help="Whether the length is announced.")] = True,
    channels: Annotated[int, typer.Option(min=1, max=8, help="DECTRIS: thresholds.")] = 1,
    compression: Annotated[
        Literal["bslz4", "lz4", "none"], typer.Option(help="DECTRIS: of the arrays.")
    ] = "bslz4",
    depth: Annotated[Depth, typer.Option(help="Merlin: how pixels are sent.")] = "U16",
    stay: Annotated[float, typer.Option(min=0, help="Stay connected so long, in s.")] = 0.0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write simulated frames with their true labels, or serve them as a detector would.

    Labels: 0 graphene, 1 amorphous, 2 vacuum, 3 beam off. A feed waits for its receiver.
    Examples: hrtem-stream simulate --kind physical --frames 20 --size 512 --output frames.npz
    or: hrtem-stream simulate --feed dectris --frames 100 --rate 20 --gaps 7-9
    """
    if (feed is None) == (output is None):
        raise SettingsError("simulate needs either --output or --feed")
    if feed is None and output is not None:
        _write(output, frames, size, seed, kind, overwrite)
        report: dict[str, Any] = {"output": str(output), "size": size, "seed": seed}
        done = f"{frames} frames written to {output}"
    else:
        from hrtem_stream.simulators.programme import Programme

        programme = Programme(
            n_frames=frames,
            n_series=series,
            rate=rate,
            gaps=parse_numbers(gaps),
            damaged=parse_numbers(damage),
            abort_after=abort_after,
            is_counted=counted,
        )
        images = _images(paths or [], n_images=min(frames, N_IMAGES), size=size, seed=seed)
        where = endpoint or ENDPOINTS[str(feed)]
        sender = _sender(str(feed), where, rate, channels, compression, depth)
        frames = _serve(sender, programme, images, stay)
        report = {"feed": feed}
        done = f"{frames} frames sent"
    if as_json:
        print_json({**report, "n_frames": frames})
    else:
        print(done)


def parse_numbers(text: str) -> frozenset[int]:
    """Read numbers and ranges such as 3,7-9.

    Raises
    ------
    SettingsError
        When they are none.
    """
    found: set[int] = set()
    for part in filter(None, text.replace(" ", "").split(",")):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise SettingsError(f"frames must be numbers and ranges such as 3,7-9, got {text!r}")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _write(output: Path, frames: int, size: int, seed: int, kind: str, overwrite: bool) -> None:
    from hrtem_stream.simulators.camera import write_simulation
    from hrtem_stream.simulators.physical import WORKING_SIZE, write_physical

    require_writable(output, overwrite)
    if kind == "physical" and size % WORKING_SIZE:
        raise SettingsError(f"--size must be a multiple of {WORKING_SIZE} here, got {size}")
    write = write_physical if kind == "physical" else write_simulation
    with output_errors(output):
        write(output, n_frames=frames, size=size, seed=seed)


def _images(paths: list[str], *, n_images: int, size: int, seed: int) -> list[Any]:
    """Read the frames to send, or make them."""
    if paths:
        from hrtem_stream.sources.files import read_frames

        require_paths(paths)
        found = [frame.pixels for frame in read_frames(paths) if not frame.fault]
        if not found:
            raise FeedError(f"{', '.join(paths)}: no frame can be read")
        return found
    from hrtem_stream.simulators.camera import SimulatedCamera

    camera = SimulatedCamera(n_frames=n_images, size=size, seed=seed)
    return [frame.pixels for frame in camera]


def _sender(
    feed: str, endpoint: str, rate: float, channels: int, compression: Any, depth: Any
) -> Any:
    from zmq import ZMQError

    exposure_s = 1 / rate if rate else 0.001
    try:
        if feed == "dectris":
            from hrtem_stream.simulators.dectris import DectrisSender

            return DectrisSender(
                endpoint, compression=compression, n_channels=channels, exposure_s=exposure_s
            )
        if feed == "merlin":
            from hrtem_stream.simulators.merlin import MerlinSender

            return MerlinSender(endpoint, depth=depth, exposure_s=exposure_s)
        from hrtem_stream.simulators.native import NativeFeed

        return NativeFeed(endpoint, exposure_s=exposure_s)
    except ImportError as error:
        raise SettingsError(
            f"--feed {feed} needs {error.name}: pip install 'hrtem-stream[{feed}]'"
        ) from None
    except (OSError, ValueError, ZMQError) as error:
        raise FeedError(f"{feed} cannot be served at {endpoint}: {error}") from None


def _serve(sender: Any, programme: Any, images: list[Any], stay_s: float) -> int:
    from hrtem_stream.simulators.programme import play

    say(f"serving at {sender.endpoint}; a frame is sent when a receiver is there")
    try:
        with sender:
            n_sent = play(programme, sender, images)
            time.sleep(stay_s)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (BrokenPipeError, ConnectionResetError):
        raise FeedError("the receiver went away") from None
    except ValueError as error:
        raise FeedError(f"a frame cannot be sent: {error}") from None
    return n_sent
