"""Parts of the page that are the same for everybody: strip of stages, numbers, charts, gallery."""

from __future__ import annotations

import math
from collections.abc import Callable

from nicegui import ui

from hrtem_stream.archive.marks import Marks
from hrtem_stream.web.charts import histogram, timeline
from hrtem_stream.web.series_view import SeriesView
from hrtem_stream.web.strip import NAMES, StageState, worst
from hrtem_stream.web.watch import Gauges

N_CARDS = 24
LONG_S = 30 * 86400.0
"""A disk that lasts longer is not worth a number."""
LEVEL_WORDS = {"ok": "ok", "idle": "idle", "amber": "look", "red": "act"}


class Strip:
    """The five stages, and the sentence of the one that needs a person most."""

    def __init__(self) -> None:
        self._cells: dict[str, tuple[ui.element, ui.label, ui.label, ui.label]] = {}
        self.section = ui.element("section").classes("h-strip").props('aria-label="Stages"')
        with self.section:
            for name in NAMES:
                with ui.element("div").classes("h-stage").props(f"data-stage={name}") as cell:
                    ui.html(f"<b>{name}</b>", tag="span", sanitize=False)
                    level = ui.label().classes("h-level")
                    rate = ui.label().classes("h-rate")
                    more = ui.label().classes("h-more")
                self._cells[name] = (cell, level, rate, more)
        self._sentence = ui.label().classes("h-sentence none").props("role=alert")

    def update(self, gauges: Gauges, *, has_ended: str = "") -> None:
        """Show the states; `has_ended` is said in their place when there is nothing to follow."""
        for state in gauges.states:
            cell, level, rate, more = self._cells[state.name]
            cell.classes(replace=f"h-stage {state.level}")
            level.set_text(LEVEL_WORDS[state.level])
            rate.set_text("–" if state.rate is None else f"{state.rate:.0f}/s")
            more.set_text(_more(state))
            if cell.props.get("title") != state.sentence:
                cell.props["title"] = state.sentence
        matter = worst(gauges.states)
        kind, text = "none", ""
        if has_ended:
            kind, text = "ended", has_ended
        elif matter is not None:
            kind, text = matter.level, matter.sentence
        self._sentence.classes(replace=f"h-sentence {kind}")
        self._sentence.set_text(text)


class Numbers:
    """The numbers that a person reads from two metres."""

    NAMES = ("frames/s", "age of newest", "frame log", "U-Net share", "archived", "disk left")

    def __init__(self) -> None:
        self._values: dict[str, ui.label] = {}
        self._names: dict[str, ui.label] = {}
        with ui.element("section").classes("h-numbers").props('aria-label="Numbers"'):
            for name in self.NAMES:
                with ui.element("div").classes("h-number").props(f'data-number="{name}"'):
                    self._values[name] = ui.label("–").classes("h-value")
                    self._names[name] = ui.label(name).classes("h-name")

    def update(self, view: SeriesView | None, gauges: Gauges) -> None:
        """Show the numbers of now."""
        self._values["frames/s"].set_text(_number(gauges.rate, "{:.1f}"))
        self._values["frame log"].set_text(_number(gauges.log_fill, "{:.0%}"))
        room, name = disk_texts(gauges)
        self._values["disk left"].set_text(room)
        self._names["disk left"].set_text(name)
        if view is None:
            return
        counts = view.method_counts
        n_analysed = counts["unet"] + counts["bragg"]
        share = counts["unet"] / n_analysed if n_analysed else None
        self._values["U-Net share"].set_text(_number(share, "{:.0%}"))
        self._values["archived"].set_text(f"{view.n_archived:,}".replace(",", "\N{THIN SPACE}"))

    def set_age(self, age_s: float | None) -> None:
        """Show how old the newest frame is."""
        self._values["age of newest"].set_text("–" if age_s is None else age_text(age_s))


class Charts:
    """Graphene fraction over time, and its histogram."""

    def __init__(self) -> None:
        self._drawn: tuple[int, float] | None = None
        with ui.element("section").classes("h-panel").props('aria-label="Charts"'):
            self._timeline = ui.html("", sanitize=False).classes("w-full")
            self._histogram = ui.html("", sanitize=False).classes("w-full")

    def update(self, view: SeriesView, threshold: float) -> None:
        """Draw anew where something changed."""
        now = (view.version, threshold)
        if now != self._drawn:
            self._drawn = now
            fractions = view.fractions
            self._timeline.set_content(timeline(fractions, threshold=threshold))
            self._histogram.set_content(histogram(fractions, threshold=threshold))


class Gallery:
    """The best frames, each in its place; the places stay, what they show changes."""

    def __init__(self, on_open: Callable[[int], object]) -> None:
        self._rows: list[int | None] = [None] * N_CARDS
        self._cards: list[tuple[ui.element, ui.element, ui.label]] = []
        with ui.element("section").classes("h-gallery").props('aria-label="Best frames"'):
            for place in range(N_CARDS):
                card = ui.element("button").classes("h-card")
                card.on("click", lambda place=place: self._open(place, on_open))
                with card:
                    image = ui.element("img").props('loading="lazy" alt=""')
                    text = ui.label()
                card.set_visibility(False)
                self._cards.append((card, image, text))

    def update(self, view: SeriesView, marks: Marks) -> None:
        """Show the best frames of now."""
        best = view.best(N_CARDS)
        for place, (card, image, text) in enumerate(self._cards):
            row = best[place] if place < len(best) else None
            self._rows[place] = row
            card.set_visibility(row is not None)
            if row is None:
                continue
            fraction, mark = view.fraction(row), marks.of(row)
            has_fraction = fraction is not None and not math.isnan(fraction)
            is_below = mark.reject or not (has_fraction and (fraction or 0.0) >= marks.threshold)
            signs = f"{' ★' if mark.star else ''}{' ✕' if mark.reject else ''}"
            signs += " ✎" if mark.note else ""
            share = f"{fraction:.1%}" if has_fraction else "–"
            _tell(image, "src", f"/frame/{view.series_id}/{row}.jpg")
            _tell(card, "data-row", str(row))
            _tell(card, "aria-label", f"Rank {place + 1}: frame {row}, graphene {share}{signs}")
            text.set_text(f"{place + 1}. {share}{signs}")
            kinds = ("starred " if mark.star else "") + ("below" if is_below else "")
            card.classes(replace=f"h-card {kinds}")

    def _open(self, place: int, on_open: Callable[[int], object]) -> object:
        row = self._rows[place]
        return on_open(row) if row is not None else None


def progress_text(view: SeriesView | None, gauges: Gauges) -> str:
    """Say how far the series is: n of N, and when it will be through."""
    if view is None:
        return ""
    n, wanted = view.n_archived, gauges.n_expected
    n_lost = view.status.n_lost if view.status else 0
    if not wanted:
        return f"{n} frames"
    text = f"{n} of {wanted} frames"
    remaining = wanted - n - n_lost
    if gauges.rate and remaining > 0:
        text += f", {span_text(remaining / gauges.rate)} to go"
    return text


def disk_texts(gauges: Gauges) -> tuple[str, str]:
    """Say how much room is left on the disk, and for how long."""
    if gauges.free_bytes is None:
        return "–", "disk left"
    room = f"{gauges.free_bytes / 1e9:.0f} GB"
    is_near = gauges.full_in_s < LONG_S
    return room, f"disk, full in {span_text(gauges.full_in_s)}" if is_near else "disk left"


def age_text(age_s: float) -> str:
    """Give an age with the digits that matter."""
    return f"{age_s:.1f} s" if age_s < 60 else span_text(age_s)


def span_text(span_s: float) -> str:
    """Give a span of time in its two largest units."""
    minutes, seconds = divmod(round(span_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _more(state: StageState) -> str:
    parts = []
    if state.method:
        parts.append({"unet": "U-Net", "bragg": "Bragg"}.get(state.method, state.method))
    if state.queue is not None:
        parts.append(f"queue {state.queue}")
    if state.lost is not None:
        parts.append(f"lost {state.lost}")
    return ", ".join(parts)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _tell(element: ui.element, name: str, value: str) -> None:
    if element.props.get(name) != value:
        element.props[name] = value
