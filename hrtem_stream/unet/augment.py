"""Random views of labelled images: what another session, lens or dose would have shown."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.unet.dataset import Example

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One view: image, label and weight per pixel, each (P, Q) float32."""

    image: Float
    amorphous: Float
    weight: Float


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How often, and how strongly, an image is changed. Shares are from 0 to 1."""

    warp_share: float = 0.7
    """Rotated by up to 15° and magnified by 0.72 to 1.25."""
    sign_share: float = 0.5
    """Contrast inverted."""
    noise_share: float = 0.4
    blur_share: float = 0.25
    illumination_share: float = 0.4
    """Contrast and level vary slowly over the frame."""


REAL = Augmentation()
SIMULATED = Augmentation(warp_share=0.2, sign_share=0.3, noise_share=0.15, blur_share=0.1)


def plain(example: Example) -> View:
    """Return an example as it is."""
    return View(
        image=example.image,
        amorphous=example.amorphous.astype(np.float32),
        weight=example.counts.astype(np.float32),
    )


def augment(example: Example, *, augmentation: Augmentation, rng: np.random.Generator) -> View:
    """Return a random view of an example, standardised anew.

    Parameters
    ----------
    example : Example
        A square working image with its label.
    augmentation : Augmentation
        How often and how strongly.
    rng : numpy.random.Generator
        Source of all random choices.
    """
    image, label, weight = example.image, example.amorphous, example.counts
    if rng.random() < augmentation.warp_share:
        image, label, weight = _warped(image, label, weight, rng=rng)
    image, label, weight = _turned(image, label, weight, rng=rng)
    if rng.random() < augmentation.blur_share:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.0))
    if rng.random() < augmentation.illumination_share:
        contrast = np.exp(np.float32(rng.uniform(0, 0.35)) * _slope(image.shape, rng=rng))
        image = image * contrast + np.float32(rng.uniform(0, 0.4)) * _slope(image.shape, rng=rng)
    if rng.random() < augmentation.noise_share:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        if rng.random() < 0.3:
            noise = 2 * cv2.GaussianBlur(noise, (0, 0), 0.7)
        image = image + np.float32(rng.uniform(0, 0.8)) * noise
    if rng.random() < augmentation.sign_share:
        image = -image
    lit = image[weight]
    scale = np.exp(rng.normal(0, 0.1)) / max(float(lit.std()), 1e-6) if lit.size else 1.0
    mean = float(lit.mean()) if lit.size else 0.0
    image = (image - np.float32(mean)) * np.float32(scale) * weight
    return View(
        image=np.ascontiguousarray(image, np.float32),
        amorphous=np.ascontiguousarray(label, np.float32),
        weight=np.ascontiguousarray(weight, np.float32),
    )


def _warped(
    image: Float, label: NDArray[np.bool_], weight: NDArray[np.bool_], *, rng: np.random.Generator
) -> tuple[Float, NDArray[np.bool_], NDArray[np.bool_]]:
    rows, columns = image.shape
    zoom = float(np.exp(rng.uniform(np.log(0.72), np.log(1.25))))
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), rng.uniform(-15, 15), zoom)
    # A magnified image may look anywhere; a reduced one is filled up by reflection.
    matrix[:, 2] += rng.uniform(-0.5, 0.5, 2) * abs(zoom - 1) * np.array([columns, rows])
    size, border = (columns, rows), cv2.BORDER_REFLECT_101
    moved = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=border)
    masks = [
        cv2.warpAffine(
            mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST, borderMode=border
        ).astype(np.bool_)
        for mask in (label, weight)
    ]
    return np.asarray(moved, np.float32), masks[0], masks[1]


def _turned(
    image: Float, label: NDArray[np.bool_], weight: NDArray[np.bool_], *, rng: np.random.Generator
) -> tuple[Float, NDArray[np.bool_], NDArray[np.bool_]]:
    quarters, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    image, label = np.rot90(image, quarters), np.rot90(label, quarters)
    weight = np.rot90(weight, quarters)
    if mirrored:
        return image[:, ::-1], label[:, ::-1], weight[:, ::-1]
    return image, label, weight


def _slope(shape: tuple[int, ...], *, rng: np.random.Generator) -> Float:
    """Return a smooth random surface of deviation of about 1."""
    coarse = rng.standard_normal((4, 4), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
