"""Frames drawn for the tests: a hexagonal lattice, a contaminant, a hole, a beam."""

import cv2
import numpy as np

G = 0.2
"""Spatial frequency of the first reflections, 1/px."""


def reflections(*, angle: float = 0.2, g: float = G) -> np.ndarray:
    """Return the three first reflections of a hexagonal lattice, as (row, column) in 1/px."""
    angles = angle + np.arange(3) * np.pi / 3.0
    return g * np.stack([np.sin(angles), np.cos(angles)], axis=1)


def lattice(shape: tuple[int, int] = (256, 256), *, angle: float = 0.2, g: float = G) -> np.ndarray:
    """Return a lattice of mean 0 and deviation 1."""
    rows, columns = np.indices(shape)
    waves = [np.cos(2 * np.pi * (y * rows + x * columns)) for y, x in reflections(angle=angle, g=g)]
    return np.sum(waves, axis=0) * np.sqrt(2.0 / 3.0)


def texture(shape: tuple[int, int] = (256, 256), *, seed: int = 0) -> np.ndarray:
    """Return an amorphous texture of mean 0 and deviation 1, coarser than the lattice."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    grain = cv2.GaussianBlur(noise, (0, 0), 1.2) - cv2.GaussianBlur(noise, (0, 0), 2.5)
    return (grain - grain.mean()) / grain.std()


def disc(
    radius: float, *, centre: tuple[float, float] = (128, 128), shape: tuple[int, int] = (256, 256)
) -> np.ndarray:
    """Return a mask that is True inside a circle."""
    rows, columns = np.indices(shape)
    return np.hypot(rows - centre[0], columns - centre[1]) < radius


def beam(shape: tuple[int, int] = (256, 256), *, fall_off: float = 5.0) -> np.ndarray:
    """Return a Gaussian beam, off centre, 1 at its peak and 1/fall_off in the farthest corner."""
    rows, columns = np.indices(shape)
    distance = np.square(rows / shape[0] - 0.35) + np.square(columns / shape[1] - 0.6)
    return fall_off ** -(distance / distance.max())


def expose(contrast: np.ndarray, *, dose: float, seed: int = 1) -> np.ndarray:
    """Count electrons: uint16 of mean `dose` times 1 + contrast."""
    expected = dose * np.clip(1.0 + contrast, 0.0, None)
    return np.random.default_rng(seed).poisson(expected).astype(np.uint16)


def standardised(image: np.ndarray) -> np.ndarray:
    """Return an image of mean 0 and deviation 1, float32."""
    return ((image - image.mean()) / image.std()).astype(np.float32)
