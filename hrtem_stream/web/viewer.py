"""One frame on the page: picture, mask over it, scale bar, spectrum with the ring of graphene."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from nicegui import ui
from numpy.typing import NDArray

from hrtem_stream.web.images import Images, Still
from hrtem_stream.web.pictures import LATTICE_SPACING_NM, contrast_filter, ring_radii, scale_bar
from hrtem_stream.web.watch import Watch

PATIENCE_S = 3.0
LEAST_CHANGE = 0.01
"""Of the contrast, before the browser is told."""


@dataclass(slots=True)
class Look:
    """What a person has set for the pictures; each browser has its own."""

    low_percent: float = 0.5
    high_percent: float = 99.5
    opacity: float = 0.35
    has_overlay: bool = True
    has_spectrum: bool = True
    has_bonds: bool = True


class Viewer:
    """The elements of one picture.

    Parameters
    ----------
    kind
        frame for the working image, full for the frame as archived.
    """

    def __init__(self, watch: Watch, images: Images, look: Look, *, kind: str) -> None:
        self._watch, self._images, self._look, self._kind = watch, images, look, kind
        self._shown: tuple[str, int] | None = None
        self._contrast = (0.0, 0.0)
        self._asked_s: float | None = None
        """When the frame on show was asked for; None when the browser has it."""
        with ui.element("div").classes("h-viewer") as self._box:
            self._frame = ui.element("img").props('alt="No frame yet"')
            self._frame.on("load", self._note_loaded, args=[])
            self._mask = ui.element("img").classes("h-mask").props('alt=""')
            self._bonds = ui.element("img").classes("h-bonds").props('alt=""')
            self._bonds.set_visibility(False)
            self._has_bonds = False
            self._bar = ui.label().classes("h-bar")
            with ui.element("div").classes("h-spectrum") as self._inset:
                self._spectrum = ui.element("img").props('alt="Spectrum of the frame"')
                self._ring = ui.element("div").classes("h-ring")
                self._ring_text = ui.label().classes("h-ring-text")
            self.badge = ui.label().classes("h-badge")
        self._bar.set_visibility(False)
        self.restyle()

    def show(
        self, row: int, still: Still, text: str, *, grey: NDArray[np.uint8] | None = None
    ) -> None:
        """Show a frame of the present series; `grey` is what is on show if not the thumbnail."""
        view = self._watch.view
        if view is None:
            return
        self._stretch(still.thumbnail if grey is None else grey)
        if self._shown == (view.series_id, row):
            return
        self._shown = (view.series_id, row)
        self._show_inset()
        self._asked_s = time.monotonic()
        place = f"{view.series_id}/{row}"
        _set(self._frame, src=f"/{self._kind}/{place}.jpg", alt=text)
        _set(self._mask, src=f"/mask/{place}.png")
        self._has_bonds = False
        self._bonds.set_visibility(False)
        self._set_scale(still)

    def show_bonds(self) -> None:
        """Lay the bonds over the frame on show; it has some."""
        if self._shown:
            _set(self._bonds, src=f"/bonds/{self._shown[0]}/{self._shown[1]}.png")
            self._has_bonds = True
            self._bonds.set_visibility(self._look.has_bonds)

    @property
    def is_ready(self) -> bool:
        """Whether the browser has taken the frame on show, or let it be: a slow one skips some."""
        return self._asked_s is None or time.monotonic() - self._asked_s > PATIENCE_S

    def show_spectrum(self) -> None:
        """Show the spectrum of the frame on show, if it is wanted."""
        if self._shown and self._look.has_spectrum:
            place = f"{self._shown[0]}/{self._shown[1]}"
            _set(self._spectrum, src=f"/spectrum/{place}.jpg")

    def restyle(self) -> None:
        """Follow what was set."""
        look = self._look
        self._mask.style(f"opacity: {look.opacity if look.has_overlay else 0:.2f}")
        self._bonds.set_visibility(self._has_bonds and look.has_bonds)
        self._show_inset()
        self.show_spectrum()

    def _show_inset(self) -> None:
        self._inset.set_visibility(self._look.has_spectrum and self._shown is not None)

    def _note_loaded(self) -> None:
        self._asked_s = None

    def _stretch(self, grey: NDArray[np.uint8]) -> None:
        look = self._look
        b, c = contrast_filter(grey, look.low_percent, look.high_percent)
        if max(abs(b / (self._contrast[0] or 9) - 1), abs(c / (self._contrast[1] or 9) - 1)) > (
            LEAST_CHANGE
        ):
            self._contrast = (b, c)
            self._frame.style(f"filter: brightness({b:.3f}) contrast({c:.3f})")

    def _set_scale(self, still: Still) -> None:
        """Set the proportions, the scale bar and the ring, which need the pixel size."""
        view = self._watch.view
        status = view.status if view else None
        shape = still.shape
        self._box.style(f"aspect-ratio: {shape[1]} / {shape[0]}" if shape else "aspect-ratio: 1")
        size_nm = status.pixel_size_nm if status else None
        if not size_nm or shape is None:
            self._bar.set_visibility(bool(status) and not size_nm)
            self._bar.set_text("no pixel size")
            self._bar.classes(add="none")  # a line would be read as a length
            self._ring.set_visibility(False)
            self._ring_text.set_text("")
            return
        length, share = scale_bar(shape[1], pixel_size_nm=size_nm)
        self._bar.set_visibility(True)
        self._bar.classes(remove="none")
        self._bar.set_text(f"{length:g} nm")
        self._bar.style(f"width: {share:.2%}")
        radii = ring_radii(shape, pixel_size_nm=size_nm, working_side=still.thumbnail.shape[0])
        self._ring.set_visibility(radii is not None)
        if radii is None:
            self._ring_text.set_text(f"{LATTICE_SPACING_NM} nm lies outside")
        else:
            self._ring.style(f"height: {radii[0]:.2%}; width: {radii[1]:.2%}")
            self._ring_text.set_text(f"ring {LATTICE_SPACING_NM} nm")


def _set(element: ui.element, **properties: str) -> None:
    """Set properties of an element that are new."""
    for name, value in properties.items():
        if element.props.get(name) != value:
            element.props[name] = value  # NiceGUI tells the browser
