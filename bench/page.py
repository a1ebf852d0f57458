"""What the live page costs the pipeline: none open, or ten and one whose browser is suspended.

    python -m bench.page [--seconds S] [--turns N]

The browser is Debian's Chromium, in the class SCHED_IDLE, and so is its session (Linux shares the
processors among sessions first, see sched(7), autogroup): in a laboratory it has a processor of its
own. With and without are run in turns. Reference: the pipeline without a page.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from bench.row import Row, line, row
from bench.session import Case, Result, make_frames, run
from hrtem_stream.runtime.process import die_with_parent

N_PAGES = 10
CHROMIUM = "/usr/bin/chromium"


def measure(seconds: float, turns: int = 3) -> list[Row]:
    """Measure the rate as fast as it goes, and the latency at half of it."""
    seconds = seconds or 12.0
    with tempfile.TemporaryDirectory() as folder:
        source = make_frames(Path(folder), 1024, "camera")
        fast = _in_turns(Case(size=1024), source, seconds, turns)
        rate = statistics.median(result.frames_per_s for result in fast[0])
        half = _in_turns(Case(size=1024, rate=str(round(rate / 2))), source, seconds, turns)
    words = f"{N_PAGES} pages open and one suspended, reference none, {Case(size=1024)}"
    return [
        _row(f"rate with {words}", fast, lambda result: result.frames_per_s, "frames/s"),
        _row(f"p99 latency with {words}, half rate", half, lambda r: r.latency_p99_ms, "ms"),
        _row(f"p50 latency with {words}, half rate", half, lambda r: r.latency_p50_ms, "ms"),
        _row(f"processor time of the stages with {words}", half, lambda r: r.total_cpu_ms,
             "ms a frame"),
    ]  # fmt: skip


def _row(name: str, pair: tuple[list[Result], list[Result]], value, unit: str) -> Row:  # type: ignore[no-untyped-def]
    without, with_pages = ([value(result) for result in results] for results in pair)
    return row(name, with_pages, unit, reference=statistics.median(without))


def _in_turns(
    case: Case, source: Path, seconds: float, turns: int
) -> tuple[list[Result], list[Result]]:
    without, with_pages = [], []
    for _ in range(turns):
        without.append(run(case, source, seconds=seconds))
        port = _free_port()
        shown = replace(case, extra=(*case.extra, "--page", "--set", f"page.port={port}"))
        with _watchers(port):
            with_pages.append(run(shown, source, seconds=seconds))
    return without, with_pages


@contextlib.contextmanager
def _watchers(port: int) -> Iterator[None]:
    command = ["chrt", "--idle", "0", sys.executable, "-m", "bench.page", "--watch", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
    try:
        yield
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with contextlib.suppress(psutil.Error, OSError):
                one.kill()
        process.wait()


def _watch(port: int) -> None:
    """Open the pages, suspend one, and look on until killed."""
    from playwright.sync_api import Error, sync_playwright

    die_with_parent(os.getppid())

    address = f"http://127.0.0.1:{port}/"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-timer-throttling"]
        )
        _yield_the_processor()
        before: set[int] = set()
        for number in range(N_PAGES + 1):
            before = _renderers()
            page = browser.new_context().new_page()
            while True:
                try:
                    page.goto(address, wait_until="commit")
                    break
                except Error:
                    time.sleep(0.2)
            if number == N_PAGES:
                page.wait_for_timeout(1000)
                for pid in _renderers() - before:
                    os.kill(pid, signal.SIGSTOP)
        threading.Event().wait()


def _yield_the_processor() -> None:
    """Give the browser's session the smallest share: Playwright starts it in one of its own."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError):  # it ended, or this kernel has no such groups
            if os.getsid(child.pid) == os.getsid(0):
                continue  # the driver is in ours, with the pipeline
            Path(f"/proc/{child.pid}/autogroup").write_text("19", encoding="ascii")


def _renderers() -> set[int]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended in that moment
            if "--type=renderer" in child.cmdline():
                found.add(child.pid)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.page")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--watch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        _watch(options.watch)
        return
    for one in measure(options.seconds, options.turns):
        print(line(one), flush=True)


if __name__ == "__main__":
    main()
