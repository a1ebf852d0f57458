"""The structure of a frame of an archive, with the masks that lie beside it there."""

from __future__ import annotations

from hrtem_stream.archive.reader import Archive, Pixels
from hrtem_stream.science.structure import Structure, analyse_frame


def analyse_row(
    archive: Archive, row: int, *, pixel_size_nm: float = 0.0
) -> tuple[Pixels, Structure | str]:
    """Find the structure of one frame of an archive.

    Parameters
    ----------
    archive
        Finished or growing.
    row
        In this archive.
    pixel_size_nm
        Of the detector; 0: as the archive is calibrated, else from the lattice itself.

    Returns
    -------
    frame
        (M, N), as archived.
    structure
        Or the reason why there is none.

    Raises
    ------
    ArchiveError
        The frame is damaged.
    IndexError
        There is no such row.
    """
    frame = archive.frame(row)
    fault, method = (str(archive.score(name)[row]) for name in ("fault", "method"))
    if fault or method == "none":
        return frame, fault or "the frame was not segmented"
    try:
        structure = analyse_frame(
            frame.astype("f4") if frame.dtype.kind == "i" else frame,
            amorphous=archive.mask(row),
            vacuum=archive.vacuum(row) | archive.beam_off(row),
            pixel_size_nm=pixel_size_nm or archive.calibration.pixel_size_nm or 0.0,
        )
    except ValueError as error:
        return frame, str(error)
    return frame, structure
