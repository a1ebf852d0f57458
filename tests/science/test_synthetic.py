from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from hrtem_stream.science.synthetic import (
    AMORPHOUS,
    BEAM_OFF,
    FIELD_OF_VIEW_NM,
    FRAMES_PER_FIELD,
    GRAPHENE,
    VACUUM,
    SyntheticSeries,
)

SIZE = 256


@pytest.fixture(scope="module")
def series() -> SyntheticSeries:
    return SyntheticSeries(shape=(SIZE, SIZE), seed=11)


@pytest.fixture(scope="module")
def frames(series: SyntheticSeries) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    taken = [series.frame(index) for index in range(0, 300, FRAMES_PER_FIELD)]
    return np.stack([frame.pixels for frame in taken]), np.stack([frame.labels for frame in taken])


def flattened(image: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Divide by the local mean."""
    cut = np.minimum(image.astype(float), 3 * np.median(image))
    spectrum = np.fft.rfft2(cut)
    g2 = np.fft.fftfreq(SIZE)[:, None] ** 2 + np.fft.rfftfreq(SIZE) ** 2
    local_mean = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * 12) ** 2 * g2), s=cut.shape)
    return np.asarray(cut / np.maximum(local_mean, 1) - 1)


def ring_power(image: NDArray[np.float64], *, g_per_nm: float) -> float:
    """Return the share of the strongest 1 % in the power of a ring: near 1 for a crystal."""
    window = np.hanning(SIZE)[:, None] * np.hanning(SIZE)
    power = np.abs(np.fft.fft2(image * window)) ** 2
    g = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)) * SIZE / FIELD_OF_VIEW_NM
    ring = np.sort(power[np.abs(g - g_per_nm) < 0.4])
    return float(ring[-max(6, len(ring) // 20) :].sum() / ring.sum())


@pytest.mark.parametrize("shape", [(64, 64), (96, 160), (200, 130)])
def test_frames_are_counts_with_a_label_for_each_pixel(shape: tuple[int, int]) -> None:
    frame = SyntheticSeries(shape=shape, seed=0).frame(3)
    assert frame.pixels.shape == frame.labels.shape == shape
    assert frame.pixels.dtype == np.uint16
    assert frame.labels.dtype == np.uint8
    assert frame.labels.max() <= BEAM_OFF
    assert frame.pixels.flags.c_contiguous
    assert frame.labels.flags.c_contiguous


def test_a_frame_depends_on_seed_and_index_alone(series: SyntheticSeries) -> None:
    again = SyntheticSeries(shape=(SIZE, SIZE), seed=11)
    for index in (17, 3, 4):
        np.testing.assert_array_equal(again.frame(index).pixels, series.frame(index).pixels)
        np.testing.assert_array_equal(again.frame(index).labels, series.frame(index).labels)
    other = SyntheticSeries(shape=(SIZE, SIZE), seed=12)
    assert (other.frame(3).pixels != series.frame(3).pixels).mean() > 0.9


def test_no_two_frames_are_alike(series: SyntheticSeries) -> None:
    pixels = [series.frame(index).pixels for index in range(2 * FRAMES_PER_FIELD)]
    for one, following in pairwise(pixels):
        assert (one != following).mean() > 0.8


def test_the_contaminant_is_etched_while_a_field_is_in_view(series: SyntheticSeries) -> None:
    covers = np.array(
        [(series.frame(index).labels == AMORPHOUS).mean() for index in range(20 * FRAMES_PER_FIELD)]
    ).reshape(20, FRAMES_PER_FIELD)
    is_covered = covers[:, 0] > 0.05
    assert is_covered.any()
    assert (covers[is_covered, -1] < covers[is_covered, 0]).mean() > 0.8


def test_the_coverage_varies_widely(
    frames: tuple[NDArray[np.uint16], NDArray[np.uint8]],
) -> None:
    _, labels = frames
    covers = (labels == AMORPHOUS).mean(axis=(1, 2))
    assert (covers == 0).any()
    assert covers.max() > 0.5
    assert covers.std() > 0.15
    is_seen = [(labels == kind).any(axis=(1, 2)) for kind in (GRAPHENE, VACUUM, BEAM_OFF)]
    assert all(seen.mean() > 0.02 for seen in is_seen)


def test_lattice_rows_lie_where_graphene_has_them(series: SyntheticSeries) -> None:
    for index in range(0, 300, FRAMES_PER_FIELD):
        frame = series.frame(index)
        if (frame.labels == GRAPHENE).mean() > 0.97:
            image = np.clip(flattened(frame.pixels), -0.3, 0.3)
            assert ring_power(image, g_per_nm=1 / 0.2131) > 0.5
            assert ring_power(image, g_per_nm=3.0) < 0.4
            return
    pytest.fail("no clean frame in the series")


def test_the_contaminant_is_rougher_than_the_lattice_and_a_hole_is_smoother(
    frames: tuple[NDArray[np.uint16], NDArray[np.uint8]],
) -> None:
    rougher, smoother = [], []
    for pixels, labels in zip(*frames, strict=True):
        if (labels == BEAM_OFF).any():
            continue
        image = flattened(pixels)
        parts = [image[labels == kind] for kind in (GRAPHENE, AMORPHOUS, VACUUM)]
        graphene, amorphous, vacuum = (np.clip(part, -0.5, 0.5) for part in parts)
        if min(graphene.size, amorphous.size) > 3000:
            rougher.append(amorphous.std() / graphene.std())
        if min(graphene.size, vacuum.size) > 3000:
            smoother.append(vacuum.std() / graphene.std())
    assert 1.1 < np.median(rougher) < 2.7
    assert np.median(smoother) < 0.9


def test_both_signs_of_contrast_occur(
    frames: tuple[NDArray[np.uint16], NDArray[np.uint8]],
) -> None:
    skews = []
    for pixels, labels in zip(*frames, strict=True):
        if (labels == GRAPHENE).mean() > 0.8:
            values = np.clip(flattened(pixels), -0.3, 0.3)[labels == GRAPHENE]
            skews.append(((values - values.mean()) ** 3).mean() / values.std() ** 3)
    assert min(skews) < 0 < max(skews)


def test_the_illumination_falls_off_several_fold(
    frames: tuple[NDArray[np.uint16], NDArray[np.uint8]],
) -> None:
    ratios = []
    for pixels, labels in zip(*frames, strict=True):
        if not (labels == BEAM_OFF).any():
            blocks = np.median(pixels.reshape(8, 32, 8, 32), axis=(1, 3))
            ratios.append(blocks.max() / blocks.min())
    assert np.median(ratios) > 1.8
    assert max(ratios) > 4


def test_no_electrons_arrive_where_the_beam_is_off(
    frames: tuple[NDArray[np.uint16], NDArray[np.uint8]],
) -> None:
    pixels, labels = frames
    assert np.median(pixels[labels == BEAM_OFF]) < 0.1 * np.median(pixels[labels == GRAPHENE])


def test_the_noise_is_that_of_the_dose() -> None:
    series = SyntheticSeries(shape=(SIZE, SIZE), seed=2, dose_e_per_nm2=2e4)
    # Neighbouring pixels of a hole differ by noise alone.
    variances = []
    for index in range(0, 400, FRAMES_PER_FIELD):
        frame = series.frame(index)
        hole = frame.labels == VACUUM
        inner = hole[:, 8:-8] & hole[:, :-16] & hole[:, 16:]
        if inner.sum() > 500:
            values = frame.pixels[:, 8:-8][inner].astype(float)
            values = values[values < 6 * np.median(values)]
            steps = np.diff(values)
            expected = 2 * series.counts_per_electron * values.mean()
            variances.append(steps[np.abs(steps) < 6 * steps.std()].var() / expected)
    assert 0.8 < np.median(variances) < 1.25


def test_hot_pixels_stay_where_they_are(
    frames: tuple[NDArray[np.uint16], NDArray[np.uint8]],
) -> None:
    pixels, _ = frames
    is_constant = pixels.max(axis=0) == pixels.min(axis=0)
    assert 1 <= is_constant.sum() <= 5


def test_a_higher_dose_gives_more_counts() -> None:
    means = [
        SyntheticSeries(shape=(64, 64), seed=1, dose_e_per_nm2=dose).frame(0).pixels.mean()
        for dose in (1e4, 1e5)
    ]
    assert means[1] > 5 * means[0]


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_few_pixels_are_saturated_at_any_size(size: int) -> None:
    series = SyntheticSeries(shape=(size, size), seed=1)
    assert all((series.frame(index).pixels == 65535).mean() < 1e-3 for index in range(0, 60, 5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": (63, 64)}, "sides must be 64 to 16384"),
        ({"shape": (64, 16385)}, "sides must be 64 to 16384"),
        ({"seed": -1}, "seed must be 0 or above"),
        ({"dose_e_per_nm2": 0.0}, "dose must be above 0"),
        ({"dose_e_per_nm2": float("nan")}, "dose must be above 0"),
    ],
)
def test_what_cannot_be_simulated_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticSeries(**({"shape": (64, 64), "seed": 0} | wrong))  # type: ignore[arg-type]
