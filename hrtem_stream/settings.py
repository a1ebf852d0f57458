"""Settings of a session: TOML file, environment, flags, checked before any socket opens.

Precedence: flag > `HRTEM_TABLE__KEY` in the environment > file > default. An unknown key is an
error that names the nearest known one. One table for each stage, under the name of the stage.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from hrtem_stream.errors import SettingsError
from hrtem_stream.share import Share

StageName: TypeAlias = Literal["ingest", "normalise", "segment", "sort"]

ENVIRONMENT_PREFIX = "HRTEM_"
MAX_IPC_PATH_BYTES = 107
ENDPOINT_NAMES = ("frames", "normalised", "segmented", "acknowledged", "summaries")


class Table(BaseModel):
    """One table of the settings file: frozen, and without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )


class NativeFeedSettings(Table):
    """The project's own ZeroMQ feed, see README, Wire format."""

    endpoint: str = "tcp://127.0.0.1:5555"
    """Address of the feed's socket."""
    pattern: Literal["push", "pub"] = "push"
    """Socket of the feed: push waits for us, pub does not and may lose frames."""
    bind: bool = False
    """Whether we bind and the feed connects, instead of the other way round."""
    max_frame_mib: float = Field(512.0, gt=0, le=4096)
    """Largest message that is accepted, in MiB."""


class ReplayFeedSettings(Table):
    """Recorded frames from files."""

    paths: tuple[str, ...] = ()
    """Folders, images, stacks, arrays, HDF5 files (`F.h5::/dataset`) or archives, in order."""
    rate: float | Literal["max", "real"] = "max"
    """Frames per second; max: as fast as they are taken; real: by the recorded times."""
    repeat: int = Field(1, ge=1, le=1_000_000)
    """How many times the frames are sent, in one series."""
    memory_mib: float = Field(1024.0, ge=0, le=1_048_576)
    """Decoded frames kept for repetition, in MiB."""
    shard: str = ""
    """The share i/n of the frames, such as 2/8, that is sent, for jobs without a cluster; empty:
    all."""

    @field_validator("shard")
    @classmethod
    def _shard_is_a_share(cls, shard: str) -> str:
        Share.parse(shard)
        return shard

    @field_validator("rate")
    @classmethod
    def _rate_is_positive(cls, rate: float | str) -> float | str:
        if isinstance(rate, float) and not 0 < rate <= 1e6:
            raise ValueError(f"must lie in (0, 1e6] frames per second, got {rate:g}")
        return rate


class SimulatedFeedSettings(Table):
    """The simulated camera."""

    n_frames: int = Field(200, ge=0, le=100_000_000)
    """Length of the series in frames."""
    size: int = Field(1024, ge=64, le=8192)
    """Width and height of a frame in pixels."""
    seed: int = Field(0, ge=0)
    """Seed of everything random."""
    rate: float | Literal["max"] = "max"
    """Frames per second; max: as fast as they are taken."""

    @field_validator("rate")
    @classmethod
    def _rate_is_positive(cls, rate: float | str) -> float | str:
        if isinstance(rate, float) and not 0 < rate <= 1e6:
            raise ValueError(f"must lie in (0, 1e6] frames per second, got {rate:g}")
        return rate


class DectrisFeedSettings(Table):
    """A DECTRIS detector's stream, version 2."""

    endpoint: str = "tcp://127.0.0.1:31001"
    """Address of the control unit's stream."""
    control: str = ""
    """Address of the control unit's web interface (http://...), where the number of images that
    it dropped is read; empty: it is not asked."""
    channel: str = ""
    """The one channel (threshold) that is archived; empty: each as a frame of its own."""
    masked: Literal["auto", "keep"] = "auto"
    """auto: the analysis fills pixels of the largest number, which the detector gives to gaps and
    dead pixels, from their neighbours; keep: it takes them as counts. The archive keeps them."""
    max_frame_mib: float = Field(512.0, gt=0, le=4096)
    """Largest message, and largest frame when decompressed, that is accepted, in MiB."""

    @field_validator("control")
    @classmethod
    def _control_is_a_web_address(cls, control: str) -> str:
        if control and not control.startswith(("http://", "https://")):
            raise ValueError(f"must begin with http:// or https://, got {control!r}")
        return control


class MerlinFeedSettings(Table):
    """A Merlin (Medipix) detector's data socket."""

    endpoint: str = "tcp://127.0.0.1:6342"
    """Address of the data socket."""
    max_frame_mib: float = Field(64.0, gt=0, le=4096)
    """Largest frame that is accepted, in MiB."""


class DirectElectronFeedSettings(Table):
    """A Direct Electron camera, through the movie buffer of its server."""

    endpoint: str = "tcp://127.0.0.1:13240"
    """Address of DE-Server."""
    start: bool = False
    """Whether we start one acquisition, with what is set at the server, and end after it; else
    acquisitions that others start, with a movie buffer, are waited for."""
    n_frames: int = Field(0, ge=0, le=100_000_000)
    """Frames of the acquisition that we start; 0: as set at the server."""
    max_buffer_mib: float = Field(2048.0, gt=0, le=65536)
    """Largest movie buffer that is accepted, in MiB."""


class FolderFeedSettings(Table):
    """Files that appear in a folder while a session runs."""

    path: str = ""
    """The folder."""
    patterns: tuple[str, ...] = ()
    """Names of files that count, such as `*.dm4`; empty: every kind that can hold frames."""
    recursive: bool = False
    """Whether folders in it count, too; each is then a series of its own."""
    existing: bool = True
    """Whether files count that were there before the session."""
    settle_s: float = Field(1.0, ge=0.05, le=3600)
    """A file counts when it has not changed for so long, in seconds."""
    give_up_s: float = Field(30.0, ge=0.1, le=86400)
    """A file that cannot be read, is empty, locked or gone is tried for so long, in seconds."""
    end_after_s: float = Field(600.0, ge=0, le=1e6)
    """A series ends when no file came for so long, in seconds; 0: never."""
    poll_s: float = Field(1.0, ge=0.05, le=3600)
    """How often the folder is looked through, whatever the file system reports, in seconds."""
    polling: Literal["auto", "always"] = "auto"
    """auto: the file system reports changes at once, except on network drives."""


class CalibrationSettings(Table):
    """What the user states of the exposure: it goes before what the feed says; 0: not stated."""

    pixel_size_nm: float = Field(0.0, ge=0, le=1000)
    """Side of a pixel on the specimen, in nm."""
    exposure_s: float = Field(0.0, ge=0, le=1e5)
    """Exposure of a frame, in seconds."""
    dose_e_per_nm2: float = Field(0.0, ge=0, le=1e12)
    """Dose of a frame, in electrons per nm²."""
    voltage_kv: float = Field(0.0, ge=0, le=3000)
    """Acceleration voltage, in kV."""


class FeedSettings(Table):
    """Where frames come from."""

    kind: Literal[
        "native", "dectris", "merlin", "direct_electron", "folder", "replay", "simulated"
    ] = "simulated"
    """Which of the tables below is used."""
    series: str = Field("series", min_length=1, max_length=128)
    """Name of the series where the feed gives none."""
    native: NativeFeedSettings = NativeFeedSettings()
    dectris: DectrisFeedSettings = DectrisFeedSettings()
    merlin: MerlinFeedSettings = MerlinFeedSettings()
    direct_electron: DirectElectronFeedSettings = DirectElectronFeedSettings()
    replay: ReplayFeedSettings = ReplayFeedSettings()
    simulated: SimulatedFeedSettings = SimulatedFeedSettings()
    folder: FolderFeedSettings = FolderFeedSettings()
    calibration: CalibrationSettings = CalibrationSettings()

    @model_validator(mode="after")
    def _a_folder_has_a_path(self) -> FeedSettings:
        if self.kind == "folder" and not self.folder.path:
            raise ValueError("feed.folder.path must name the folder to watch")
        return self

    @property
    def is_live(self) -> bool:
        """Whether further series may come, and what is not taken now is gone."""
        if self.kind == "direct_electron":
            return not self.direct_electron.start
        return self.kind in ("native", "dectris", "merlin", "folder")

    @property
    def waits_when_paused(self) -> bool:
        """Whether what is not taken while saving is paused is still there afterwards."""
        return self.kind == "folder" or not self.is_live


class FrameLogSettings(Table):
    """The ring of raw frames between the feed and the archive."""

    path: str = ""
    """File of the log; empty: in shared memory, where it survives any process but not the host."""
    capacity_mib: float = Field(1024.0, ge=1, le=4_194_304)
    """Size in MiB: at least five seconds of feed. Bounded to half of the free space."""
    pixels_to: Literal["nobody", "normalise", "sort"] = "nobody"
    """How far pixels travel in the messages: to `normalise`, or through it to `sort`, where these
    run on another host than `ingest` and cannot see the log."""


class IngestSettings(Table):
    """Receiving, logging and publishing frames."""

    window: int = Field(256, ge=1, le=4096)
    """Frames on their way at most, unacknowledged; 64 serves unequal workers better."""
    mark_interval_s: float = Field(0.1, gt=0, le=10)
    """How often a mark goes down every shard while frames are outstanding, in seconds."""
    stall_s: float = Field(1.0, gt=0, le=3600)
    """A shard silent for so long while another moves gives its frames away, in seconds."""
    late_frames: int = Field(16, ge=0, le=4096)
    """A missing frame is declared lost after so many later ones have come."""
    first_item_s: float = Field(0.0, ge=0, le=1e6)
    """A feed from which nothing came after so long is unreachable, exit 4, in seconds; 0: it is
    waited for."""
    idle_end_s: float = Field(60.0, ge=0, le=1e6)
    """A series silent for so long is ended, in seconds; 0: never."""


class NormaliseSettings(Table):
    """Evening out the illumination."""

    mode: Literal["resize", "lattice"] = "lattice"
    """resize: every frame is worked on at working_size, as published; lattice: at the size at
    which its lattice is sharp, from the calibration or the frame's own spectrum."""
    working_size: int = Field(256, ge=64, le=2048, multiple_of=16)
    """Height and width in pixels of thumbnails and of the working image as published, which mode
    lattice keeps where the lattice is sharp there."""
    working_pixel_nm: float = Field(0.045, ge=0.03, le=0.075)
    """Size of a working pixel in mode lattice, in nm, where working_size does not do. The working
    image then takes up to twice the memory of the frame."""
    batch_frames: int = Field(8, ge=1, le=256)
    """Frames taken up at once."""
    dark: str = ""
    """File of the dark reference, subtracted before the analysis; a stack is averaged."""
    gain: str = ""
    """File of the gain reference, multiplied before the analysis; where it is 0 a pixel is bad."""
    bad_pixels: str = ""
    """File of a map whose pixels other than 0 are bad; they are filled from their neighbours."""
    binning: int = Field(1, ge=1, le=64)
    """Side of the squares of pixels that are summed before the analysis."""
    sum_frames: int = Field(1, ge=1, le=64)
    """Each frame is analysed as the sum of itself and those before it, so many in all."""


class SegmentSettings(Table):
    """Graphene against contaminant."""

    workers: int = Field(1, ge=1, le=64)
    """Number of segment processes on all hosts, each with its own shard."""
    here: tuple[Annotated[int, Field(ge=0, lt=64)], ...] = ()
    """Numbers, from 0, of those that run on this host; none given: all."""
    segmenter: Literal["auto", "unet", "bragg"] = "auto"
    """auto: the U-Net where it is installed and keeps up, else the Bragg filter."""
    batch_frames: int = Field(8, ge=1, le=256)
    """Frames segmented at once."""
    batch_wait_s: float = Field(0.0, ge=0, le=1)
    """How long a batch waits to fill, in seconds: every frame is so much later. Whoever is busy
    finds the next batch waiting in any case."""
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """What calculates the U-Net. auto: torch on a GPU; on a processor OpenVINO where it is
    installed, else torch. openvino: on the processor even where there is a GPU."""
    weights: str = ""
    """File of the U-Net's weights; empty: those that come with the program."""
    four_flips: bool = False
    """Whether the U-Net averages over four mirror images, for a little accuracy at four times
    the work."""
    slowest_s: float = Field(0.05, gt=0, le=60)
    """auto takes the U-Net on a processor only if an image takes it less, in seconds."""
    oldest_s: float = Field(0.0, ge=0, le=3600)
    """Frames older than this go to the Bragg filter, which is quicker, in seconds; 0: none."""
    agreement_share: float = Field(0.02, ge=0, le=1)
    """Share of frames on which U-Net and Bragg filter are compared, to see a drift."""


class SortSettings(Table):
    """Ranking and storing."""

    flush_frames: int = Field(32, ge=1, le=1024)
    """Frames written between two flushes; bounded to a quarter of the window."""
    flush_s: float = Field(0.05, gt=0, le=10)
    """Longest time between two flushes, in seconds."""
    threads: int = Field(2, ge=1, le=64)
    """Threads that flatten and compress."""


class ArchiveSettings(Table):
    """The file that is left."""

    directory: str = "runs"
    """Folder for archives named after their series."""
    file: str = ""
    """Path of the archive, when there is only one series (replay, demo)."""
    codec: Literal["deflate", "zstd", "none"] = "deflate"
    """deflate opens everywhere; zstd is faster and smaller but needs a plugin to read."""
    keep: Literal["graphene", "all"] = "graphene"
    """graphene: amorphous runs are flattened; all: every pixel stays as received."""
    frames_per_file: int = Field(0, ge=0, le=100_000_000)
    """Rotation: a new file after so many frames; 0: one file a series."""
    overwrite: bool = False
    """Whether an existing archive may be replaced."""
    report: bool = True
    """Whether a report, `NAME.html`, is written beside each series when it is closed."""
    full_disk_wait_s: float = Field(1e9, ge=0)
    """How long `sort` waits for space on a full disk before it gives up, in seconds."""


class EndpointSettings(Table):
    """ZeroMQ addresses between the stages; empty: ipc in the session's folder."""

    frames: str = ""
    """ingest publishes here."""
    normalised: str = ""
    """normalise publishes here."""
    segmented: str = ""
    """sort listens here: every segment worker connects to it."""
    acknowledged: str = ""
    """sort acknowledges here."""
    summaries: str = ""
    """sort tells watchers here; a slow watcher loses summaries, never frames."""

    @field_validator("*")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        if address and not address.startswith(("ipc://", "tcp://")):
            raise ValueError(f"must begin with ipc:// or tcp://, got {address!r}")
        return address


class MetricsSettings(Table):
    """Prometheus."""

    enabled: bool = True
    """Whether each stage opens a metrics port."""
    host: str = "127.0.0.1"
    """Interface of the ports; loopback unless told otherwise."""
    port: int = Field(9310, ge=0, le=65000)
    """First port: ingest, normalise, sort, supervisor, segment workers from +10; 0: free ones."""
    targets_directory: str = ""
    """Folder of the list of ports, for Prometheus to find; empty: /tmp/hrtem-UID/targets."""


class SecuritySettings(Table):
    """What may leave this host, and how."""

    directory: str = ""
    """Folder of keys and token, made by `hrtem-stream keys`; empty: ~/.config/hrtem-stream."""
    insecure: Literal["nothing", "feed", "everything"] = "nothing"
    """What may leave this host readable and open to all; everything, as --insecure: metrics, too.
    feed: a camera's script that knows no CURVE, on a network of its own."""


class PageSettings(Table):
    """The live page."""

    enabled: bool = True
    """Whether a session serves its page."""
    host: str = "127.0.0.1"
    """Interface of the page; off loopback it asks for a token."""
    port: int = Field(9300, ge=0, le=65535)
    """Port of the page; another free one where it is taken; 0: any free one."""


class StructureSettings(Table):
    """Atoms, bonds and grains, found while the session runs."""

    every: int = Field(0, ge=0)
    """Each so many-th frame is analysed, as far as the processor is free; 0: none."""


class DrillSettings(Table):
    """Faults that `hrtem-stream drill` injects into the stages."""

    folder: str = ""
    """Folder through which the drill steers them; empty, as it must be at a microscope: none."""


class SessionSettings(Table):
    """The session as a whole."""

    name: str = Field("live", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,40}$")
    """One session of a name can run at a time."""
    stages: tuple[StageName, ...] = ("ingest", "normalise", "segment", "sort")
    """Stages that run on this host; the others run elsewhere, with settings of their own."""
    runtime_directory: str = ""
    """Sockets, locks and heartbeats; empty: /tmp/hrtem-UID/NAME."""
    drain_s: float = Field(60.0, gt=0, le=3600)
    """Time that a stop may take to bring the frames on their way into the archive, in seconds."""
    hang_s: float = Field(10.0, gt=0, le=3600)
    """A stage whose heart stands still for so long is killed and started anew, in seconds."""
    start_up_s: float = Field(120.0, gt=0, le=3600)
    """The same until the first frame is done: a new installation compiles meanwhile."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe line that is written to stderr."""


class Settings(BaseSettings):
    """All settings of a session."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    session: SessionSettings = SessionSettings()
    feed: FeedSettings = FeedSettings()
    frame_log: FrameLogSettings = FrameLogSettings()
    ingest: IngestSettings = IngestSettings()
    normalise: NormaliseSettings = NormaliseSettings()
    segment: SegmentSettings = SegmentSettings()
    sort: SortSettings = SortSettings()
    archive: ArchiveSettings = ArchiveSettings()
    endpoints: EndpointSettings = EndpointSettings()
    metrics: MetricsSettings = MetricsSettings()
    security: SecuritySettings = SecuritySettings()
    drill: DrillSettings = DrillSettings()
    page: PageSettings = PageSettings()
    structure: StructureSettings = StructureSettings()

    @model_validator(mode="after")
    def _workers_here_exist(self) -> Settings:
        beyond = [number for number in self.segment.here if number >= self.segment.workers]
        if beyond:
            raise ValueError(
                f"segment.here must be below segment.workers = {self.segment.workers}, got {beyond}"
            )
        if not self.session.stages:
            raise ValueError("session.stages must name at least one stage")
        return self

    @model_validator(mode="after")
    def _paths_fit_a_socket(self) -> Settings:
        for name in ENDPOINT_NAMES:
            address = self.endpoint(name)
            n_bytes = len(os.fsencode(address.removeprefix("ipc://")))
            if address.startswith("ipc://") and n_bytes > MAX_IPC_PATH_BYTES:
                raise ValueError(
                    f"endpoints.{name}: an ipc path must be at most {MAX_IPC_PATH_BYTES} bytes, "
                    f"got {n_bytes}: {address}; set a shorter session.runtime_directory"
                )
        return self

    @model_validator(mode="after")
    def _nothing_wanted_lies_in_the_runtime_directory(self) -> Settings:
        kept = {"the archive folder": self.archive_directory}
        if self.frame_log.path:
            kept["the folder of frame_log.path"] = self.frame_log_path.parent
        if self.feed.kind == "folder":
            kept["feed.folder.path"] = Path(self.feed.folder.path)
        for what, folder in kept.items():
            if holds(self.runtime_directory, folder):
                raise ValueError(
                    f"session.runtime_directory is emptied when a session begins and ends, so "
                    f"{what} must not lie in it, got {self.runtime_directory} and {folder}"
                )
        return self

    @property
    def runtime_directory(self) -> Path:
        """Folder of the session's sockets, locks and heartbeats."""
        if self.session.runtime_directory:
            return Path(self.session.runtime_directory)
        return Path(f"/tmp/hrtem-{os.getuid()}") / self.session.name

    @property
    def security_directory(self) -> Path:
        """Folder of keys and token."""
        chosen = self.security.directory
        return Path(chosen).expanduser() if chosen else Path.home() / ".config" / "hrtem-stream"

    @property
    def token_path(self) -> Path:
        """File of the token that metrics and page ask for off loopback."""
        return self.security_directory / "token"

    @property
    def targets_path(self) -> Path:
        """File that tells Prometheus the metrics ports of the session."""
        folder = self.metrics.targets_directory or f"/tmp/hrtem-{os.getuid()}/targets"
        return Path(folder) / f"{self.session.name}.json"

    @property
    def archive_directory(self) -> Path:
        """Folder of the archives."""
        return Path(self.archive.file).parent if self.archive.file else Path(self.archive.directory)

    @property
    def event_log_path(self) -> Path | None:
        """File of the events of the session as JSON lines; None where an archive lies alone."""
        if self.archive.file:
            return None
        return Path(self.archive.directory) / f"{self.session.name}.log.jsonl"

    @property
    def frame_log_path(self) -> Path:
        """File of the frame log."""
        if self.frame_log.path:
            return Path(self.frame_log.path)
        return Path(f"/dev/shm/hrtem-{os.getuid()}-{self.session.name}") / "frames.log"

    def endpoint(self, name: str) -> str:
        """Address of one of the five arrows between stages."""
        address: str = getattr(self.endpoints, name)
        return address or f"ipc://{self.runtime_directory}/{name}.ipc"


def holds(folder: Path, other: Path) -> bool:
    """Tell whether a folder is another one, or that one lies somewhere in it."""
    return other.resolve().is_relative_to(folder.resolve())


def load_settings(path: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings from flags, environment, file and defaults, in that precedence.

    Parameters
    ----------
    path
        TOML file; None for none.
    flags
        Values by dotted name, such as `{"segment.workers": 2}`; None values are left out.

    Raises
    ------
    SettingsError
        The file cannot be read, or a key or value is wrong; the message names rule and value.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    nested = _nested(dict(flatten(_with_feed_table(given))))
    content = read_toml(path) if path is not None else {}
    _refuse_unknown_variables()

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, content)

    try:
        return Settings.model_construct(**dict(Loaded(**nested)))
    except ValidationError as error:
        raise SettingsError("; ".join(_sentences(error))) from None
    except ValueError as error:
        raise SettingsError(str(error)) from None


def settings_from_json(text: str) -> Settings:
    """Rebuild settings that were written by `model_dump_json`, ignoring the environment."""

    class Exact(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings,)

    try:
        return Settings.model_construct(**dict(Exact.model_validate_json(text)))
    except ValidationError as error:
        raise SettingsError("; ".join(_sentences(error))) from None


def origins(path: Path | None, flags: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Tell for each dotted key where its value comes from: flag, environment, file or default."""
    given = set((flags or {}).keys())
    environment = {key for key, _ in flatten(EnvSettingsSource(Settings)())}
    content = read_toml(path) if path is not None else {}
    in_file = {key for key, _ in flatten(content)}
    found = {}
    for key, _ in flatten(load_settings(path, flags).model_dump()):
        if key in given:
            found[key] = "flag"
        elif key in environment:
            found[key] = f"environment {ENVIRONMENT_PREFIX}{key.upper().replace('.', '__')}"
        elif key in in_file:
            found[key] = f"file {path}"
        else:
            found[key] = "default"
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    SettingsError
        The file cannot be read or is not TOML.
    """
    try:
        return _with_feed_table(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"settings file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from None


def feed_of_line(line: str) -> dict[str, Any]:
    """Make the table of a feed from one line: `dectris tcp://detector:31001`, `folder /data`."""
    kind, _, place = line.strip().partition(" ")
    if not place:
        return {"kind": kind}
    key = "path" if kind == "folder" else "endpoint"
    return {"kind": kind, kind: {key: place.strip()}}


def _with_feed_table(content: dict[str, Any]) -> dict[str, Any]:
    """Turn a feed in one line into its table, before other sources are laid over it."""
    feed = content.get("feed")
    return {**content, "feed": feed_of_line(feed)} if isinstance(feed, str) else content


def known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """List every dotted key, tables included."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def nearest_key(key: str) -> str:
    """Name the known key that looks most like `key`, with a question mark, or nothing."""
    known = known_keys()
    table = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == table]
    close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.4)
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else ""


def _sentences(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            yield f"unknown setting {key}{nearest_key(key)}"
        elif key:
            yield f"setting {key}: {item['msg']}, got {item['input']!r}"
        else:
            yield str(item["msg"]).removeprefix("Value error, ")


def _refuse_unknown_variables() -> None:
    known = set(known_keys())
    for variable in os.environ:
        if variable.upper().startswith(ENVIRONMENT_PREFIX):
            key = variable[len(ENVIRONMENT_PREFIX) :].lower().replace("__", ".")
            if key not in known:
                raise SettingsError(
                    f"unknown setting {variable} in the environment{nearest_key(key)}"
                )


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, name = key.split(".")
        table = nested
        for part in tables:
            table = table.setdefault(part, {})
        table[name] = value
    return nested


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give each value of nested tables with its dotted key."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
