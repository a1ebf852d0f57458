"""The drill: a session under random faults, with an audit frame by frame.

A drill is made of rounds. Each is a session of its own, undisturbed at first, which gives the
figures without faults, and then with one fault after the other. The feed of a round waits (push)
or does not (pub); the frame log of a pub round is small, so that it overflows.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from hrtem_stream.settings import ENDPOINT_NAMES, SessionSettings, Settings
from hrtem_stream.simulators.drill_audit import (
    Account,
    Place,
    audit_series,
    files_of,
    is_closed,
    percentiles,
)
from hrtem_stream.simulators.drill_book import FeedBook, SentSeries
from hrtem_stream.simulators.drill_feed import DrillFeed
from hrtem_stream.simulators.drill_session import (
    ENDED_WELL,
    DrillError,
    Session,
    SettledTimes,
)
from hrtem_stream.simulators.faults import Fault, Injector, SmallDisk

DISK_MIB: Final = 384
LOG_S: Final = {"push": 8.0, "pub": 1.5}
"""Size of the frame log, in seconds of the feed."""
HANG_S: Final = 4.0
REBIRTH_S: Final = 3.0
"""So long after its death `ingest` may not hear yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One session of a drill."""

    pattern: Literal["push", "pub"]
    undisturbed_s: float
    disturbed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a drill does."""

    rounds: tuple[Round, ...]
    rate: float
    """Frames per second."""
    size: int
    """Side of a frame in pixels."""
    pause_s: float
    """Mean time between the end of a fault and the next one."""
    series_s: float
    seed: int


def quick_plan(seed: int) -> Plan:
    """Plan a drill of about a minute."""
    rounds = (
        Round(pattern="push", undisturbed_s=5.0, disturbed_s=28.0),
        Round(pattern="pub", undisturbed_s=0.0, disturbed_s=10.0),
    )
    return Plan(rounds=rounds, rate=40.0, size=256, pause_s=0.7, series_s=5.0, seed=seed)


def long_plan(minutes: float, seed: int) -> Plan:
    """Plan a drill of so many minutes: three quarters with a feed that waits."""
    n_cycles = max(1, round(minutes / 8))
    cycle_s = 60.0 * minutes / n_cycles
    cycle = (
        Round(pattern="push", undisturbed_s=0.1 * cycle_s, disturbed_s=0.62 * cycle_s),
        Round(pattern="pub", undisturbed_s=0.0, disturbed_s=0.25 * cycle_s),
    )
    return Plan(rounds=cycle * n_cycles, rate=15.0, size=512, pause_s=2.0, series_s=20.0, seed=seed)


@dataclass(slots=True)
class _Figures:
    """What is measured over all rounds."""

    account: Account = field(default_factory=Account)
    faults: Counter[str] = field(default_factory=Counter)
    latencies: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    """From sent to settled, in seconds, without and with faults."""
    recoveries: list[float] = field(default_factory=list)
    n_archived: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    sending_s: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    failures: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


class Drill:
    """A drill of a plan.

    Parameters
    ----------
    settings
        Of the session; feed, folders and what the audit needs are replaced.
    say
        Told what happens, for people.
    """

    def __init__(
        self, settings: Settings, plan: Plan, *, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._say = say
        self._rng = np.random.default_rng(plan.seed)
        self._figures = _Figures()

    def run(self) -> dict[str, Any]:
        """Run every round and give the report, under the names of the contract."""
        began_s = time.monotonic()
        evidence = []
        for number, plan in enumerate(self._plan.rounds):
            folder = Path(tempfile.mkdtemp(prefix="hrtem-drill-"))
            try:
                round_ = _RoundRun(
                    self._settings, self._plan, plan, number, folder, self._rng, self._figures,
                    self._say,
                )  # fmt: skip
                is_sound = round_.run()
            except DrillError as error:
                self._figures.failures.append(f"round {number + 1}: {error}")
                is_sound = False
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            if is_sound:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                evidence.append(str(folder))
        return self._report(time.monotonic() - began_s, evidence)

    def _report(self, duration_s: float, evidence: list[str]) -> dict[str, Any]:
        figures, account = self._figures, self._figures.account
        names = {False: "without_faults", True: "with_faults"}
        return {
            "ok": account.is_sound and not figures.failures,
            "faults": dict(sorted(figures.faults.items())) | {"total": figures.faults.total()},
            "sent": account.sent,
            "archived": account.archived,
            "lost": account.n_lost,
            "lost_by_reason": dict(account.lost.most_common()),
            "lost_without_cause": account.lost_without_cause,
            "unaccounted": account.unaccounted,
            "duplicated": account.duplicated,
            "mismatched": account.mismatched,
            "broken_archives": account.broken_archives,
            "recovery_s": percentiles(figures.recoveries),
            "frames_per_s": {
                name: figures.n_archived[key] / figures.sending_s[key]
                for key, name in names.items()
                if figures.sending_s[key]
            },
            "latency_s": {name: percentiles(figures.latencies[k]) for k, name in names.items()},
            "findings": account.findings,
            "failures": figures.failures,
            "left_out": figures.left_out,
            "evidence": evidence,
            "seed": self._plan.seed,
            "duration_s": duration_s,
        }


class _RoundRun:
    """One round while it runs."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        round_: Round,
        number: int,
        folder: Path,
        rng: np.random.Generator,
        figures: _Figures,
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._round, self._figures, self._say = plan, round_, figures, say
        self._rng = rng
        self._folder = folder
        self._archives = folder / "archives"
        self._drill_folder = folder / "drill"
        self._drill_folder.mkdir()
        self._log_folder = Path("/dev/shm") / folder.name
        self._settings = _settings_for(settings, plan, round_, folder, self._log_folder)
        self._prefix = f"r{number:03d}n"
        self._places: list[tuple[SentSeries, list[Place]]] = []
        self._faults: list[Fault] = []
        self._disturbed_from_s = float("inf")

    def run(self) -> bool:
        """Run it; tell whether all that is promised was kept."""
        account = self._figures.account
        before = (account.is_sound, len(self._figures.failures))
        with self._disk() as disk:
            self._run_on(disk)
        return before[0] == account.is_sound and before[1] == len(self._figures.failures)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[SmallDisk]:
        disk = SmallDisk(self._archives, DISK_MIB)
        if not disk.is_small:
            self._figures.left_out["full_disk"] = "a small file system cannot be mounted here"
        try:
            yield disk
        finally:
            self._keep_evidence("")
            disk.unmount()
            shutil.rmtree(self._log_folder, ignore_errors=True)

    def _run_on(self, disk: SmallDisk) -> None:
        self._log_folder.mkdir(mode=0o700)
        book = FeedBook()
        session = Session(self._settings, self._folder)
        feed = DrillFeed(
            book,
            endpoint=self._settings.feed.native.endpoint,
            pattern=self._round.pattern,
            size=self._plan.size,
            rate=self._plan.rate,
            series_s=self._plan.series_s,
            seed=int(self._rng.integers(2**31)),
            prefix=self._prefix,
            is_begun=lambda name: bool(files_of(self._archives, name)),
            is_closed=lambda name: is_closed(self._archives, name),
        )
        injector = Injector(
            session, feed, disk, drill_folder=self._drill_folder,
            may_kill_supervisor=self._round.pattern == "push",
            rng=np.random.default_rng(self._rng.integers(2**31)),
        )  # fmt: skip
        self._faults = injector.faults
        session.start()
        witness = SettledTimes(self._settings.endpoint("acknowledged"))
        try:
            session.wait_until_ready()
            self._say(f"{self._round.pattern}: {self._plan.rate:g} frames/s")
            feed.start()
            self._go_on(self._round.undisturbed_s, session, feed, book)
            self._disturb(session, feed, injector, book)
            injector.relax()
            feed.stop()
            self._end(session)
        finally:
            injector.relax()
            session.kill()
            witness.stop()
        for name in book.names():
            self._audit(book.remove(name))
        self._figures.faults += book.faults
        self._measure(witness, feed.spans)

    def _go_on(self, duration_s: float, session: Session, feed: DrillFeed, book: FeedBook) -> None:
        """Let the session work for a while, auditing what is finished."""
        until_s = time.monotonic() + duration_s
        while time.monotonic() < until_s:
            session.check()
            if feed.error is not None:
                raise feed.error
            for series in book.over():
                self._audit(book.remove(series.name))
            time.sleep(min(0.1, max(0.0, until_s - time.monotonic())))

    def _disturb(
        self, session: Session, feed: DrillFeed, injector: Injector, book: FeedBook
    ) -> None:
        feed.has_faults = True
        self._disturbed_from_s = time.monotonic()
        until_s = self._disturbed_from_s + self._round.disturbed_s
        while time.monotonic() < until_s:
            fault = injector.inject_next()
            self._figures.faults[fault.kind] += 1
            self._say(f"{fault.kind} {fault.fault_of}".rstrip())
            if fault.fault_of:
                self._figures.failures.append(f"{fault.kind}: {fault.fault_of}")
            pause_s = float(self._rng.exponential(self._plan.pause_s))
            self._go_on(min(pause_s, 4 * self._plan.pause_s), session, feed, book)

    def _end(self, session: Session) -> None:
        code, out = session.interrupt()
        if code not in ENDED_WELL:
            raise DrillError(f"the session ended with exit {code}: {session.log[-1000:]}")
        try:
            json.loads(out)
        except ValueError:
            raise DrillError("the session printed no JSON object") from None
        left = [path.name for path in self._archives.glob("*.part")]
        if left:
            raise DrillError(f"the session ended and left {', '.join(left)}")

    def _audit(self, series: SentSeries) -> None:
        account = self._figures.account
        n_findings = len(account.findings)
        was_sound = account.is_sound
        places = audit_series(account, series, self._archives, may_lose=self._may_lose)
        self._places.append((series, places))
        for finding in account.findings[n_findings:]:
            self._say(f"FOUND {finding}")
        if len(account.findings) > n_findings or account.is_sound != was_sound:
            self._keep_evidence(series.name)
        for path in self._archives.glob(f"{series.name}[._-]*"):  # reports, too
            path.unlink()

    def _may_lose(self, sent_s: float) -> bool:
        """Tell whether `ingest` has died since a frame was sent: it may have lain in its socket."""
        return any(
            fault.ends_ingest and sent_s <= fault.ended_s + REBIRTH_S for fault in self._faults
        )

    def _measure(self, witness: SettledTimes, spans: list[tuple[float, float]]) -> None:
        """Turn places into latencies, and faults into recoveries."""
        settled: list[tuple[float, float]] = []
        for _, places in self._places:
            for place in places:
                settled_s = witness.settled_s(place.log_id, place.ordinal)
                if settled_s is not None:
                    settled.append((place.sent_s, settled_s))
        settled.sort()
        for sent_s, settled_s in settled:
            disturbed = settled_s >= self._disturbed_from_s  # on its way then: it met the faults
            self._figures.latencies[disturbed].append(settled_s - sent_s)
            self._figures.n_archived[disturbed] += 1
        for began_s, ended_s in spans:
            from_s = min(max(began_s, self._disturbed_from_s), ended_s)
            self._figures.sending_s[False] += from_s - began_s
            self._figures.sending_s[True] += ended_s - from_s
        times = np.array(settled).reshape(-1, 2)
        for fault in self._faults:
            recovery_s = _recovery_s(times, fault)
            if recovery_s is not None:
                self._figures.recoveries.append(recovery_s)

    def _keep_evidence(self, series: str) -> None:
        """Copy archives from their own disk to where they outlive the round."""
        for path in self._archives.glob(f"{series}*.nxs*"):
            with contextlib.suppress(OSError):
                shutil.copy2(path, self._folder)


def _recovery_s(times: Any, fault: Fault) -> float | None:
    """Give the time after a fault until all is settled that was sent before its cause was gone.

    The first frame sent afterwards counts, too: a feed that `ingest` does not hear sends none.
    """
    before = times[times[:, 0] <= fault.ended_s]
    after = times[times[:, 0] > fault.ended_s]
    ends = [*before[-512:, 1].tolist(), *after[:1, 1].tolist()]
    return max(0.0, max(ends) - fault.ended_s) if ends else None


def _settings_for(
    settings: Settings, plan: Plan, round_: Round, folder: Path, log_folder: Path
) -> Settings:
    """Give the settings of a round's session."""
    frame_mib = plan.size**2 * 2 / 2**20
    values = {
        "session": {
            "name": folder.name, "runtime_directory": str(folder / "run"), "hang_s": HANG_S,
            "stages": SessionSettings().stages,
        },
        "feed": {"kind": "native"},
        "frame_log": {
            "path": str(log_folder / "frames.log"),
            "pixels_to": "nobody",
            "capacity_mib": max(2.0, LOG_S[round_.pattern] * plan.rate * frame_mib),
        },
        "ingest": {"idle_end_s": 0.0},
        "archive": {
            "directory": str(folder / "archives"), "file": "", "keep": "all",
            "full_disk_wait_s": 1e9,
            "report": False,
        },
        "metrics": {"host": "127.0.0.1", "port": 0},
        "endpoints": dict.fromkeys(ENDPOINT_NAMES, ""),
        "page": {"enabled": False},
        "drill": {"folder": str(folder / "drill")},
    }  # fmt: skip
    native = {"endpoint": f"ipc://{folder}/feed", "pattern": round_.pattern, "bind": False}
    tables: dict[str, Any] = {
        name: getattr(settings, name).model_copy(update=update) for name, update in values.items()
    }
    feed = tables["feed"]
    tables["feed"] = feed.model_copy(update={"native": feed.native.model_copy(update=native)})
    return settings.model_copy(update=tables)
