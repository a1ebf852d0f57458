"""The live page: what one browser sees, and what its owner can do.

Everybody sees the same session; contrast, overlay, freezing and the frame on show are each one's
own. Stars, rejections, notes, the threshold and the pause of saving are everybody's, and guests
cannot change them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Request
from nicegui import run, ui

from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import FrameSummary
from hrtem_stream.web.door import role_of
from hrtem_stream.web.full_view import FullView
from hrtem_stream.web.images import Images, Still
from hrtem_stream.web.panels import Charts, Gallery, Numbers, Strip, progress_text, span_text
from hrtem_stream.web.pictures import AMORPHOUS_WORD, VACUUM_WORD
from hrtem_stream.web.viewer import Look, Viewer
from hrtem_stream.web.watch import Watch

FRAME_INTERVAL_S = 0.1
"""A new frame is shown at most ten times a second."""
REST_INTERVAL_S = 1.0
SPECTRUM_INTERVAL_S = 0.5


class Ticker:
    """Picks the frame that is on show, ten times a second: the newest wins."""

    def __init__(self, watch: Watch, images: Images) -> None:
        self._watch, self._images = watch, images
        self.summary: FrameSummary | None = None
        self.still: Still | None = None

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            self.tick()
            await asyncio.sleep(FRAME_INTERVAL_S)

    def tick(self) -> None:
        """Pick the newest frame."""
        view = self._watch.view
        newest = view.newest if view else None
        if newest is not None and newest is not self.summary:
            self.still = self._images.pin(newest)
            self.summary = newest


def add_page(watch: Watch, images: Images, ticker: Ticker) -> None:
    """Register the page under /."""
    folder = Path(__file__).parent
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")

    @ui.page("/", title="hrtem_stream", dark=True)
    async def show(request: Request) -> None:
        ui.add_css(style)
        ui.add_body_html(f"<script>{script}</script>")
        Page(watch, images, ticker, is_owner=role_of(request.scope) == "owner")


class Page:
    """One browser's page."""

    def __init__(self, watch: Watch, images: Images, ticker: Ticker, *, is_owner: bool) -> None:
        self._watch, self._images, self._ticker = watch, images, ticker
        self._is_owner = is_owner
        self._look = Look()
        self._frozen: int | None = None
        """Row on show while the view is frozen; None when it is live."""
        self._row: int | None = None
        self._spectrum_s = 0.0
        self._series_id = ""
        self._wished = watch.marks.threshold
        self._is_setting = False
        self._build()
        ui.on("hrtem_key", lambda event: self._press(event.args))
        ui.timer(FRAME_INTERVAL_S, self._refresh_frame)
        ui.timer(REST_INTERVAL_S, self._refresh_rest)

    def _build(self) -> None:
        with ui.element("header").classes("h-row"):
            self._title = ui.label("Waiting for a series").classes("h-series")
            self._progress = ui.label().classes("h-faint")
            ui.element("div").classes("h-grow")
            self._freeze_button = ui.button("Freeze view", on_click=self._freeze).props(
                'icon=ac_unit color=primary aria-label="Freeze view: saving goes on (space)"'
            )
            self._pause_button = ui.button("Pause saving", on_click=self._pause).props(
                "icon=pause color=warning text-color=black"
            )
            if not self._is_owner:
                ui.label("guest: look only").classes("h-faint")
        self._strip = Strip()
        self._strip.section.set_visibility(not self._watch.hears_nothing)
        with ui.element("main").classes("h-main"):
            with ui.element("section").props('aria-label="Newest frame"'):
                self._viewer = Viewer(self._watch, self._images, self._look, kind="frame")
                self._caption = ui.label().classes("h-caption")
                self._build_marks()
                self._build_look()
            with ui.element("section").props('aria-label="The series in numbers"'):
                self._numbers = Numbers()
                self._build_threshold()
                self._charts = Charts()
        ui.label("Best frames").classes("h-series")
        self._gallery = Gallery(self._open)
        self._full = FullView(
            self._watch, self._images, self._look, change=self._change, is_owner=self._is_owner
        )

    def _build_marks(self) -> None:
        with ui.element("div").classes("h-row"):
            ui.button(icon="chevron_left", on_click=lambda: self._step(-1)).props(
                'flat aria-label="Previous frame (left arrow)"'
            )
            ui.button(icon="chevron_right", on_click=lambda: self._step(1)).props(
                'flat aria-label="Next frame (right arrow)"'
            )
            star = ui.button("Star", on_click=lambda: self._toggle("star"))
            star.props('flat icon=star aria-label="Star this frame (s)"')
            reject = ui.button("Reject", on_click=lambda: self._toggle("reject"))
            reject.props('flat icon=close aria-label="Reject this frame (x)"')
            for button in (star, reject):
                button.set_enabled(self._is_owner)

    def _build_look(self) -> None:
        look = self._look
        with ui.element("div").classes("h-panel h-row"):
            ui.label("contrast")
            _slider("Darkest percentile", 0, 20, 0.5, look.low_percent, self._set_low)
            _slider("Brightest percentile", 80, 100, 0.5, look.high_percent, self._set_high)
        with ui.element("div").classes("h-panel h-row"):
            self._overlay_box = ui.checkbox("overlay (o)", value=look.has_overlay)
            self._overlay_box.on_value_change(lambda event: self._set_look(has_overlay=event.value))
            _slider("Opacity of the overlay", 0, 1, 0.05, look.opacity, self._set_opacity)
            self._spectrum_box = ui.checkbox("spectrum (f)", value=look.has_spectrum)
            self._spectrum_box.on_value_change(
                lambda event: self._set_look(has_spectrum=event.value)
            )
            self._bonds_box = ui.checkbox("bonds in the full view (b)", value=look.has_bonds)
            self._bonds_box.on_value_change(lambda event: self._set_look(has_bonds=event.value))
            ui.html(
                '<span class="h-chip" style="background: var(--amorphous)"></span>amorphous '
                f"({AMORPHOUS_WORD}) "
                '<span class="h-chip" style="background: var(--vacuum)"></span>vacuum '
                f"({VACUUM_WORD})",
                sanitize=False,
            )

    def _build_threshold(self) -> None:
        with ui.element("div").classes("h-panel h-row"):
            ui.label("keep from")
            self._threshold = _slider(
                "Least graphene fraction of a kept frame, in per cent", 0, 100, 1,
                100 * self._watch.marks.threshold, self._set_threshold,
            )  # fmt: skip
            self._threshold.set_enabled(self._is_owner)
            self._counts = ui.label().props("role=status data-number=kept")

    # What is shown.

    async def _refresh_frame(self) -> None:
        summary, still = self._ticker.summary, self._ticker.still
        view = self._watch.view
        if summary is not None and view is not None:
            age_s = max(0.0, time.time() - summary.received_ns / 1e9)
            self._numbers.set_age(None if view.series_id != summary.series_id else age_s)
        if self._frozen is not None or view is None:
            return
        if summary is None or still is None or summary.series_id != view.series_id:
            if view.n_rows and self._row is None:  # a finished archive, or a page that came late
                await self._show_row(view.n_rows - 1)
            return
        if summary.row == self._row and self._series_id == view.series_id:
            return
        if not self._viewer.is_ready:
            return
        self._present(summary.row, still)
        now_s = time.monotonic()
        if now_s - self._spectrum_s > SPECTRUM_INTERVAL_S:
            self._spectrum_s = now_s
            self._viewer.show_spectrum()

    def _present(self, row: int, still: Still) -> None:
        view = self._watch.view
        self._row = row
        self._series_id = view.series_id if view else ""
        text = self._words(row)
        self._viewer.show(row, still, text)
        self._caption.set_text(text)

    def _refresh_rest(self) -> None:
        watch, gauges = self._watch, self._watch.gauges
        with watch.lock:
            view, marks = watch.view, watch.marks
            self._strip.update(gauges, has_ended=self._farewell())
            self._numbers.update(view, gauges)
            self._progress.set_text(progress_text(view, gauges))
            self._show_pause(gauges.paused_s, can_pause=gauges.can_pause)
            self._show_badge()
            if view is None:
                return
            self._title.set_text(view.series)
            if self._series_id and self._series_id != view.series_id:
                self._frozen = None  # another series began
            if marks.threshold != self._wished and not self._is_setting:  # another browser set it
                self._wished = marks.threshold
                self._threshold.set_value(round(100 * marks.threshold))
            kept, rejected = view.kept(marks.threshold, marks.rejected)
            self._counts.set_text(f"{marks.threshold:.0%}: {kept} kept, {rejected} rejected")
            self._charts.update(view, marks.threshold)
            if self._frozen is None:
                self._gallery.update(view, marks)
        self._full.refresh()
        if self._frozen is not None:
            self._caption.set_text(self._words(self._frozen))

    def _show_pause(self, paused_s: float | None, *, can_pause: bool) -> None:
        self._pause_button.set_enabled(self._is_owner and can_pause and not self._watch.has_ended)
        text = "Pause saving" if paused_s is None else f"Go on saving ({span_text(paused_s)})"
        self._pause_button.set_text(text)
        label = "Pause saving" if paused_s is None else "Go on saving"
        if self._pause_button.props.get("aria-label") != label:
            self._pause_button.props["aria-label"] = label

    def _show_badge(self) -> None:
        is_frozen = self._frozen is not None
        word = "FROZEN, saving goes on" if is_frozen else "LIVE" if self._row is not None else ""
        if self._watch.has_ended:
            word = "ended"
        elif self._watch.gauges.paused_s is not None:
            word = "SAVING PAUSED"
        self._viewer.badge.set_text(word)
        self._viewer.badge.classes(
            replace=f"h-badge {'frozen' if word not in ('LIVE', '') else ''}"
        )
        self._freeze_button.set_text("Live view" if is_frozen else "Freeze view")

    def _farewell(self) -> str:
        if not self._watch.has_ended or self._watch.hears_nothing:
            return ""
        status = self._watch.view.status if self._watch.view else None
        if status is None:
            return "The session has ended."
        return (
            f"The session has ended. Its frames are in {status.archive}; look at them with "
            f"“hrtem-stream page {status.archive}”."
        )

    def _words(self, row: int) -> str:
        """Say what is known of a frame."""
        view = self._watch.view
        fraction = view.fraction(row) if view else None
        if view is None or fraction is None:
            return f"frame {row}"
        mark = self._watch.marks.of(row)
        share = "not analysed" if fraction != fraction else f"graphene {fraction:.1%}"
        rank = view.rank(row)
        place = "" if rank is None else f", rank {rank + 1} of {view.n_known}"
        method = {"unet": ", U-Net", "bragg": ", Bragg filter"}.get(view.method(row), "")
        signs = f"{' ★' if mark.star else ''}{' ✕ rejected' if mark.reject else ''}"
        return f"frame {row}: {share}{place}{method}{signs}"

    # What a person does.

    async def _press(self, key: str) -> None:
        deeds: dict[str, Callable[[], object]] = {
            " ": self._freeze,
            "ArrowLeft": lambda: self._step(-1),
            "ArrowRight": lambda: self._step(1),
            "s": lambda: self._toggle("star"),
            "x": lambda: self._toggle("reject"),
            "o": lambda: self._overlay_box.set_value(not self._look.has_overlay),
            "b": lambda: self._bonds_box.set_value(not self._look.has_bonds),
            "f": lambda: self._spectrum_box.set_value(not self._look.has_spectrum),
        }
        deed = deeds.get(key)
        result = deed() if deed else None
        if isinstance(result, Awaitable):
            await result

    def _freeze(self) -> None:
        if self._frozen is not None:
            self._frozen = None
            self._row = None
        elif self._row is not None:
            self._frozen = self._row
            self._viewer.show_spectrum()
        self._show_badge()

    async def _step(self, n_rows: int) -> None:
        if self._full.is_open:
            await self._full.step(n_rows)
            return
        view = self._watch.view
        if view is None or not view.n_rows or self._row is None:
            return
        self._frozen = min(max(self._row + n_rows, 0), view.n_rows - 1)
        self._show_badge()
        await self._show_row(self._frozen)
        self._viewer.show_spectrum()

    async def _show_row(self, row: int) -> None:
        try:
            still = await run.io_bound(self._images.still, row)
        except ArchiveError as error:
            ui.notify(str(error), type="warning")
            return
        if still is not None:  # else the server stops
            self._present(row, still)

    async def _open(self, row: int) -> None:
        await self._full.open(row)

    async def _toggle(self, name: str) -> None:
        row = self._full.row if self._full.is_open else self._row
        if row is None:
            return
        mark = self._watch.marks.of(row)
        await self._change(row, **{name: not getattr(mark, name)})

    async def _change(self, row: int, **changes: Any) -> None:
        """Say something of a frame, and keep it."""
        if not self._is_owner:
            ui.notify("guests look only", type="warning")
            return
        await self._keep(partial(self._watch.change_mark, row, **changes))
        self._refresh_rest()
        self._caption.set_text(self._words(self._row) if self._row is not None else "")

    async def _keep(self, deed: Callable[[], None]) -> bool:
        """Do what writes a file; say so if it fails, and tell whether it was done."""
        try:
            await run.io_bound(deed)
        except (OSError, ValueError) as error:
            ui.notify(f"This could not be kept: {error}", type="negative")
            return False
        return True

    async def _pause(self) -> None:
        if not self._is_owner:
            return
        is_paused = self._watch.gauges.paused_s is not None
        deed = self._watch.go_on_saving if is_paused else self._watch.pause_saving
        await self._keep(deed)
        self._refresh_rest()

    async def _set_threshold(self, percent: float) -> None:
        """Follow the slider; of what comes while one threshold is being kept, the last counts."""
        self._wished = round(percent) / 100
        if self._is_setting or not self._is_owner or self._watch.view is None:
            return
        self._is_setting = True
        try:
            while (wished := self._wished) != self._watch.marks.threshold:
                if not await self._keep(partial(self._watch.set_threshold, wished)):
                    break
        finally:
            self._is_setting = False
        self._refresh_rest()

    def _set_low(self, percent: float) -> None:
        self._set_look(low_percent=percent)

    def _set_high(self, percent: float) -> None:
        self._set_look(high_percent=percent)

    def _set_opacity(self, share: float) -> None:
        self._set_look(opacity=share)

    def _set_look(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self._look, name, value)
        for viewer in (self._viewer, self._full.viewer):
            viewer.restyle()
        if self._row is not None:
            with contextlib.suppress(ArchiveError):
                self._viewer.show(self._row, self._images.still(self._row), self._words(self._row))


class _Slider(ui.slider):
    """A slider whose handle follows the hand at once, however slow the network."""

    LOOPBACK = False


def _slider(
    label: str, least: float, greatest: float, step: float, value: float, on_change: Any
) -> ui.slider:
    slider = _Slider(min=least, max=greatest, step=step, value=value).classes("h-slider")
    slider.props(f'label aria-label="{label}"')
    slider.on_value_change(lambda event: on_change(event.value))
    return slider
