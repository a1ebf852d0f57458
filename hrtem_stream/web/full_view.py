"""The full view: one frame as it is archived, over the whole screen, to be judged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import run, ui

from hrtem_stream.archive.marks import MAX_NOTE
from hrtem_stream.errors import ArchiveError
from hrtem_stream.web.images import Images
from hrtem_stream.web.viewer import Look, Viewer
from hrtem_stream.web.watch import Watch


class FullView:
    """A dialog that steps through the frames in the order of their rank.

    Parameters
    ----------
    change
        Says something of a frame: `change(row, star=True)`.
    is_owner
        Whether that may be done here.
    """

    def __init__(
        self,
        watch: Watch,
        images: Images,
        look: Look,
        *,
        change: Callable[..., Awaitable[None]],
        is_owner: bool,
    ) -> None:
        self._watch, self._images, self._change = watch, images, change
        self.row: int | None = None
        with ui.dialog().props("maximized") as self._dialog, ui.card().classes("h-full"):
            self.viewer = Viewer(watch, images, look, kind="full")
            self._text = ui.label().classes("h-caption")
            self._found = ui.label().classes("h-structure")
            with ui.element("div").classes("h-row"):
                self._button("chevron_left", "Previous in rank (left arrow)", lambda: self.step(-1))
                self._button("chevron_right", "Next in rank (right arrow)", lambda: self.step(1))
                star = self._button("star", "Star (s)", lambda: self._toggle("star"))
                reject = self._button("close", "Reject (x)", lambda: self._toggle("reject"))
                self._note = ui.input("Note").props(f"maxlength={MAX_NOTE} aria-label=Note")
                self._note.classes("h-grow").on("blur", self._keep_note)
                self._note.on("keydown.enter", self._keep_note)
                close = ui.button("Close", on_click=self._close)
                close.props('flat aria-label="Close the full view (Escape)"')
            for element in (star, reject, self._note):
                element.set_enabled(is_owner)
        self._is_owner = is_owner

    @property
    def is_open(self) -> bool:
        """Whether the dialog is open."""
        return bool(self._dialog.value)

    async def open(self, row: int) -> None:
        """Show a frame."""
        self.row = row
        self._note.set_value(self._watch.marks.of(row).note)
        self.refresh()
        self.viewer.badge.set_text("full view")
        self._dialog.open()  # at once, so that the next key is meant for this frame
        self._found.set_text("")
        try:
            still = await run.io_bound(self._images.still, row)
            grey = await run.io_bound(self._images.screen, row)
        except ArchiveError as error:
            ui.notify(str(error), type="warning")
            return
        if still is not None and self.row == row:  # no later step overtook it
            self.viewer.show(row, still, f"frame {row}", grey=grey)
            self.viewer.show_spectrum()
            await self._show_structure(row)

    async def _show_structure(self, row: int) -> None:
        try:
            found = await run.io_bound(self._images.structure, row)
        except ArchiveError as error:
            self._found.set_text(str(error))
            return
        if found is not None and self.row == row:
            self._found.set_text(found.words)
            self.viewer.show_bonds()

    async def step(self, n_places: int) -> None:
        """Go to the frame so many places further down the ranking."""
        view = self._watch.view
        if view is None or self.row is None:
            return
        await self._keep_note()
        with self._watch.lock:
            place = (view.rank(self.row) or 0) + n_places
            best = view.best(place + 1)
        if 0 <= place < len(best):
            await self.open(best[place])

    def refresh(self) -> None:
        """Say what is known of the frame."""
        view = self._watch.view
        if view is None or self.row is None:
            return
        mark, fraction, rank = (
            self._watch.marks.of(self.row),
            view.fraction(self.row),
            view.rank(self.row),
        )
        parts = [f"frame {self.row}"]
        if fraction is not None:
            parts.append("not analysed" if fraction != fraction else f"graphene {fraction:.1%}")
        if rank is not None:
            parts.append(f"rank {rank + 1} of {view.n_known}")
        parts += ["★ starred"] if mark.star else []
        parts += ["✕ rejected"] if mark.reject else []
        self._text.set_text(", ".join(parts))

    async def _toggle(self, name: str) -> None:
        if self.row is not None:
            mark = self._watch.marks.of(self.row)
            await self._change(self.row, **{name: not getattr(mark, name)})
            self.refresh()

    async def _keep_note(self) -> None:
        if self.row is None or not self._is_owner:
            return
        note = str(self._note.value or "").strip()[:MAX_NOTE]
        if note != self._watch.marks.of(self.row).note:
            await self._change(self.row, note=note)

    async def _close(self) -> None:
        await self._keep_note()
        self._dialog.close()

    @staticmethod
    def _button(icon: str, label: str, deed: Callable[[], object]) -> ui.button:
        return ui.button(icon=icon, on_click=deed).props(f'flat aria-label="{label}"')
