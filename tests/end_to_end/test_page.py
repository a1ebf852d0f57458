"""The page in Debian's Chromium, beside a session that archives real frames.

One session serves all these tests, in their order; each looks at something else of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from hrtem_stream import open_archive
from hrtem_stream.archive.marks import marks_of
from hrtem_stream.archive.structure import find_structures
from hrtem_stream.errors import ArchiveError
from tests.end_to_end.camera import Camera, free_port
from tests.end_to_end.command import Session

pytestmark = [pytest.mark.processes, pytest.mark.browser]

CHROMIUM = "/usr/bin/chromium"
FRAMES_PER_S = 8.0


@dataclass
class Bench:
    session: Session
    camera: Camera
    page: Any
    context: Any
    address: str
    folder: Path
    requests: list[str]

    @property
    def archive(self) -> Path:
        return next(
            p for p in self.folder.glob("real frames.nxs*") if p.suffix in (".nxs", ".part")
        )

    def wait(self, is_so: Callable[[], Any], timeout_s: float = 90.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := is_so()):
            if self.session.process.poll() is not None:
                raise AssertionError(f"the session ended: {self.session.process.communicate()[1]}")
            assert time.monotonic() < deadline, "it never was so"
            self.page.wait_for_timeout(50)
        return found

    def shown(self) -> int:
        """Row of the frame in the large picture."""
        found = re.search(
            r"/(\d+)\.jpg", self.page.locator("main img").first.get_attribute("src") or ""
        )
        return int(found[1]) if found else -1

    def stage(self, name: str) -> Any:
        return self.page.locator(f'[data-stage="{name}"]')

    def level(self, name: str) -> str:
        return str(self.stage(name).get_attribute("class")).split()[-1]

    def gallery(self) -> list[int]:
        cards = self.page.locator(".h-card:visible").all()
        return [int(card.get_attribute("data-row")) for card in cards]

    def shown_with_atoms(self) -> set[int]:
        """Rows in the gallery whose atoms have been found."""
        if find_structures(self.archive) is None:
            return set()
        with open_archive(self.archive) as archive, archive.structure() as structures:
            frames = structures.frames
            rows = {int(row) for row in frames["frame"][frames["n_atoms"] > 100]}
        return rows & set(self.gallery()) - {0}

    def schedule_structures(self, policy: int) -> bool:
        """Have the search for structures scheduled so, if it runs and we may; tell if it runs."""
        stages = psutil.Process(self.session.process.pid).children()
        found = [stage for stage in stages if "structures" in stage.cmdline()]
        for process in found:
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(process.pid, policy, os.sched_param(0))
        return bool(found)

    def key(self, name: str) -> None:
        self.page.locator("body").click(position={"x": 2, "y": 2})
        self.page.keyboard.press(name)


@pytest.fixture(scope="module")
def bench(real_frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    playwright = pytest.importorskip("playwright.sync_api")
    if not shutil.which(CHROMIUM):
        pytest.skip(f"{CHROMIUM} is not installed")
    folder = tmp_path_factory.mktemp("page")
    names = [n for n in sorted(real_frames.glob("*.png")) if not n.stem.endswith("_LABEL")][:30]
    frames = [np.asarray(Image.open(name).convert("L")) for name in names]
    frames = [frame for frame in frames if frame.shape == frames[0].shape]
    camera = Camera(frames, rate=FRAMES_PER_S, n_expected=2000, hold_after=len(frames))
    camera.start()
    config = folder / "session.toml"
    config.write_text(f"""
        [session]
        name = "page-test"
        runtime_directory = "{folder / "runtime"}"
        [frame_log]
        path = "{folder / "frames.log"}"
        capacity_mib = 64
        [feed]
        kind = "native"
        [feed.native]
        endpoint = "{camera.endpoint}"
        [segment]
        slowest_s = 1e-9   # no processor is as fast, so the Bragg filter stands in
        [archive]
        directory = "{folder}"
        [structure]
        every = 2
        [page]
        port = {free_port()}
        """)
    session = Session("run", config, "--page")
    Session.running.remove(session)  # it outlives the first test
    port = int(re.findall(r"port = (\d+)", config.read_text())[-1])
    address = f"http://127.0.0.1:{port}/"
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            context = browser.new_context(viewport={"width": 1024, "height": 768})
            page = context.new_page()
            requests: list[str] = []
            page.on("request", lambda request: requests.append(request.url))
            made = Bench(session, camera, page, context, address, folder, requests)
            made.wait(lambda: _opens(page, address))
            made.wait(lambda: len(made.gallery()) >= 5)
            # Structures are found in what others leave of the processor, here with other tests
            # beside: until the first ones are there they have their share.
            made.wait(
                lambda: made.schedule_structures(os.SCHED_OTHER) and made.shown_with_atoms(),
                timeout_s=150.0,
            )
            made.schedule_structures(os.SCHED_IDLE)
            camera.go_on()
            yield made
            browser.close()
    finally:  # also where it never came so far
        camera.stop()
        session.process.kill()
        session.process.communicate()


def _opens(page: Any, address: str) -> bool:
    from playwright.sync_api import Error

    try:
        return bool(page.goto(address).ok)
    except Error:  # before the page serves
        return False


def test_the_newest_frame_advances(bench: Bench) -> None:
    first = bench.shown()
    bench.wait(lambda: bench.shown() >= first + 2)
    picture = bench.page.locator("main img").first
    bench.wait(lambda: picture.evaluate("image => image.naturalWidth") == 256)
    assert bench.page.locator(".h-badge").first.inner_text() == "LIVE"
    age = bench.page.locator('[data-number="age of newest"] .h-value')
    bench.wait(lambda: re.fullmatch(r"[0-4]\.\d s", age.inner_text()))  # after what waited
    scale = bench.page.locator(".h-bar").first
    bench.wait(lambda: scale.inner_text() == "1 nm")  # told once a second
    assert "of 2000 frames" in bench.page.locator("header").inner_text()


def test_a_fallback_turns_segment_amber_and_says_what_to_do(bench: Bench) -> None:
    bench.wait(lambda: bench.level("segment") == "amber")
    assert "Bragg" in bench.stage("segment").inner_text()
    alert = bench.page.get_by_role("alert")
    bench.wait(lambda: "Bragg filter stands in" in alert.inner_text())
    bench.wait(lambda: {bench.level(name) for name in ("camera", "ingest", "sort")} == {"ok"})


def test_the_view_is_frozen_while_saving_goes_on(bench: Bench) -> None:
    bench.key(" ")
    bench.wait(lambda: "FROZEN" in bench.page.locator(".h-badge").first.inner_text())
    frozen, n_archived = bench.shown(), _n_archived(bench)
    bench.wait(lambda: _n_archived(bench) >= n_archived + 6)
    assert bench.shown() == frozen
    bench.key("ArrowLeft")
    bench.wait(lambda: bench.shown() == frozen - 1)
    bench.key("ArrowRight")
    bench.wait(lambda: bench.shown() == frozen)
    bench.key(" ")
    bench.wait(lambda: bench.shown() > frozen)


def test_overlay_and_spectrum_are_switched_by_key(bench: Bench) -> None:
    mask, inset = bench.page.locator("main .h-mask"), bench.page.locator("main .h-spectrum")
    assert inset.is_visible()
    bench.key("f")
    bench.wait(lambda: not inset.is_visible())
    bench.key("f")
    bench.wait(inset.is_visible)
    before = float(mask.evaluate("image => getComputedStyle(image).opacity"))
    bench.key("o")
    bench.wait(lambda: mask.evaluate("image => getComputedStyle(image).opacity") == "0")
    bench.key("o")
    bench.wait(lambda: float(mask.evaluate("i => getComputedStyle(i).opacity")) == before)


def test_bonds_found_meanwhile_lie_over_the_frame_in_the_full_view(bench: Bench) -> None:
    row = bench.wait(lambda: next(iter(bench.shown_with_atoms()), None))
    bench.page.locator(f'.h-card[data-row="{row}"]:visible').click()
    dialog = bench.page.get_by_role("dialog")
    bonds = dialog.locator("img.h-bonds")
    bench.wait(lambda: bonds.is_visible() and bonds.evaluate("image => image.naturalWidth") > 1)
    assert re.search(r"\d+ atoms", dialog.locator(".h-structure").inner_text())
    bench.page.keyboard.press("b")
    bench.wait(lambda: not bonds.is_visible())
    bench.page.keyboard.press("b")
    bench.wait(bonds.is_visible)
    bench.page.keyboard.press("Escape")
    bench.wait(lambda: not dialog.is_visible())


def test_a_star_and_a_note_survive_the_death_of_the_page(bench: Bench) -> None:
    bench.page.locator(".h-card:visible").first.click()
    dialog = bench.page.get_by_role("dialog")
    dialog.wait_for()
    caption = dialog.locator(".h-caption")
    row = int(re.findall(r"frame (\d+)", caption.inner_text())[0])
    dialog.get_by_label("Star (s)").click()
    dialog.get_by_label("Note").fill("a rotated grain")
    dialog.get_by_label("Note").press("Enter")
    bench.wait(lambda: "starred" in caption.inner_text())
    bench.page.keyboard.press("Escape")
    path = bench.folder / "real frames.marks.json"
    bench.wait(lambda: path.exists() and "rotated" in path.read_text())
    for child in psutil.Process(bench.session.process.pid).children():
        if "hrtem_stream.web" in child.cmdline():
            child.kill()
            child.wait()
    bench.wait(lambda: _opens(bench.page, bench.address))
    card = bench.page.locator(f'.h-card[data-row="{row}"]')
    bench.wait(lambda: card.count() and "★ ✎" in card.first.inner_text())


def test_a_reload_and_a_restart_show_the_present_state(bench: Bench) -> None:
    bench.page.reload()
    bench.wait(lambda: bench.shown() >= 0)
    n_archived = _n_archived(bench)
    bench.wait(lambda: sum(_kept(bench)) >= n_archived)  # those of before the restart, too


def test_the_threshold_counts_as_the_archive_would(bench: Bench) -> None:
    with open_archive(bench.archive) as archive:
        threshold = float(np.round(np.median(archive.score("graphene_fraction")), 2))
    slider = bench.page.get_by_role("slider", name="Least graphene fraction")
    slider.locator("[tabindex]").focus()
    tens, ones = divmod(round(100 * threshold), 10)
    for key in ["PageUp"] * tens + ["ArrowRight"] * ones:
        bench.page.keyboard.press(key)
    bench.wait(
        lambda: f"{threshold:.0%}" in bench.page.locator('[data-number="kept"]').inner_text()
    )

    def agrees() -> bool:
        kept, rejected = _kept(bench)
        try:
            with open_archive(bench.archive) as archive:
                fractions = archive.score("graphene_fraction")[: kept + rejected]
        except ArchiveError:  # the tables were moved in that moment
            return False
        return len(fractions) == kept + rejected and kept == int((fractions >= threshold).sum())

    bench.wait(agrees)


def test_saving_is_paused_and_goes_on_and_every_frame_is_declared(bench: Bench) -> None:
    button = bench.page.get_by_role("button", name="Pause saving")
    button.click()
    bench.wait(lambda: bench.level("camera") == "amber")
    alert = bench.page.get_by_role("alert")
    bench.wait(lambda: "declared as not saved" in alert.inner_text())
    n_sent = bench.camera.n_sent
    bench.wait(lambda: bench.camera.n_sent >= n_sent + 8)
    bench.page.get_by_role("button", name="Go on saving").click()
    bench.wait(lambda: "saving was paused" in bench.stage("ingest").get_attribute("title"))
    assert bench.level("ingest") == "amber"


def test_a_loss_turns_ingest_red_and_says_what_to_do(bench: Bench) -> None:
    bench.camera.skip(3)
    bench.wait(lambda: bench.level("ingest") == "red")
    alert = bench.page.get_by_role("alert")
    bench.wait(lambda: "missing at the feed" in alert.inner_text())
    assert "look at the camera" in alert.inner_text()


def test_all_comes_from_this_host_and_every_control_has_a_name(bench: Bench) -> None:
    outside = [r for r in bench.requests if not r.startswith((bench.address, "data:", "blob:"))]
    assert [r for r in outside if not r.startswith(bench.address.replace("http", "ws"))] == []
    nameless = bench.page.evaluate("""() =>
        [...document.querySelectorAll('button, input, [role="slider"], img:not([alt])')]
        .filter(e => e.closest('.nicegui-content, [role="dialog"]'))
        .filter(e => !(e.getAttribute('aria-label') || e.innerText || e.labels?.length
                       || e.closest('[aria-label]')?.getAttribute('aria-label')))
        .map(e => e.outerHTML)""")
    assert nameless == []
    assert bench.page.evaluate("document.documentElement.scrollWidth") <= 1024


def test_at_the_end_the_gallery_is_the_ranking_and_the_marks_are_in_the_archive(
    bench: Bench,
) -> None:
    bench.camera.end()
    path = bench.folder / "real frames.nxs"
    bench.wait(path.exists)
    with open_archive(path) as archive:
        ranking, ledger, marks = archive.ranking().tolist(), archive.ledger, marks_of(archive)
        in_file, threshold = archive.marks
    assert ledger.balanced
    lost = {loss.reason: loss.n_frames for loss in ledger.losses}
    assert lost["missing at the feed"] == 3
    assert lost["saving paused by the user"] >= 5
    bench.wait(lambda: bench.gallery() == ranking[: len(bench.gallery())])
    assert len(in_file[0]) == len(marks.frames) == 1
    assert threshold == marks.threshold > 0
    with open_archive(path) as archive, archive.structure() as structures:
        assert len(structures) >= 1


def _n_archived(bench: Bench) -> int:
    with open_archive(bench.archive) as archive:
        return len(archive)


def _kept(bench: Bench) -> tuple[int, int]:
    text = bench.page.locator('[data-number="kept"]').inner_text()
    found = re.search(r"(\d+) kept, (\d+) rejected", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
