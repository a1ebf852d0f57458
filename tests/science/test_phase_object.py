"""Images of thin specimens: closed forms and symmetries."""

from __future__ import annotations

import numpy as np
import pytest

from bench import multislice
from hrtem_stream.science import phase_object
from hrtem_stream.science.phase_object import Optics

N = 64
PIXEL_NM = 0.03


def wave_of(atoms: np.ndarray) -> np.ndarray:
    return phase_object.exit_wave(
        [atoms], pixel_size_nm=PIXEL_NM, voltage_kv=80.0, thermal_nm=0.006, slice_nm=1.0
    )


def one_atom() -> np.ndarray:
    atoms = np.zeros((N, N), np.float32)
    atoms[N // 2, N // 2] = 1.0
    return atoms


def test_the_wavelength_at_80_kv_is_the_textbooks() -> None:
    assert phase_object.wavelength_nm(80.0) == pytest.approx(4.1757e-3, rel=1e-4)


def test_a_carbon_atom_shifts_the_phase_by_its_scattering_factor_forward() -> None:
    zero = np.zeros(1, np.float32)
    phase = phase_object.carbon_phase(zero, voltage_kv=80.0, thermal_nm=0.0)
    assert phase[0] == pytest.approx(1.15656 * 4.1757e-3 * 0.25068, rel=1e-3)


def test_the_scattering_factor_agrees_with_another_parametrisation() -> None:
    """Kirkland (2010), as it stands in `bench.multislice`, up to the lattice's fourth order."""
    g = np.linspace(0, 16, 33, dtype=np.float32)
    ours = phase_object.carbon_phase(g**2, voltage_kv=80, thermal_nm=0.0)
    q2 = (g / 10.0) ** 2
    factor = sum(a / (q2 + b) for a, b in multislice.LORENTZIANS)
    factor = factor + sum(c * np.exp(-d * q2) for c, d in multislice.GAUSSIANS)
    theirs = multislice.RELATIVISTIC * multislice.WAVELENGTH_NM * 0.1 * factor
    np.testing.assert_allclose(ours, theirs, rtol=0.03)


def test_no_specimen_gives_an_even_image_of_one() -> None:
    wave = wave_of(np.zeros((N, N), np.float32))
    image = phase_object.image_intensity(wave, pixel_size_nm=PIXEL_NM, optics=Optics())
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, 1.0, atol=1e-5)


def test_a_thin_specimen_without_aberrations_is_invisible() -> None:
    sharp = Optics(C10_nm=0.0, focal_spread_nm=0.0, semi_convergence_rad=0.0, vibration_nm=0.0)
    image = phase_object.image_intensity(wave_of(one_atom()), pixel_size_nm=PIXEL_NM, optics=sharp)
    np.testing.assert_allclose(image, 1.0, atol=1e-4)


def test_defocus_keeps_the_number_of_electrons() -> None:
    lens = Optics(C10_nm=8.0, semi_convergence_rad=0.0)
    image = phase_object.image_intensity(wave_of(one_atom()), pixel_size_nm=PIXEL_NM, optics=lens)
    assert image.mean() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("defocus_nm", [3.0, 10.0])
def test_the_sign_of_the_defocus_is_the_sign_of_the_contrast(defocus_nm: float) -> None:
    wave = wave_of(one_atom())
    over, under = (
        phase_object.image_intensity(wave, pixel_size_nm=PIXEL_NM, optics=Optics(C10_nm=sign))
        for sign in (defocus_nm, -defocus_nm)
    )
    centre = (N // 2, N // 2)
    assert (over[centre] - 1.0) * (under[centre] - 1.0) < 0.0


def test_a_round_lens_images_an_atom_round() -> None:
    image = phase_object.image_intensity(
        wave_of(one_atom()), pixel_size_nm=PIXEL_NM, optics=Optics(C10_nm=5.0, C30_nm=5e3)
    )
    np.testing.assert_allclose(image, image.T, atol=1e-5)


def test_astigmatism_stretches_it() -> None:
    lens = Optics(C10_nm=5.0, C12_nm=4.0)
    image = phase_object.image_intensity(wave_of(one_atom()), pixel_size_nm=PIXEL_NM, optics=lens)
    assert np.abs(image - image.T).max() > 1e-2


def test_two_slices_without_a_path_between_are_one() -> None:
    atoms = np.random.default_rng(0).poisson(0.05, (N, N)).astype(np.float32)
    values = {"pixel_size_nm": PIXEL_NM, "voltage_kv": 80.0, "thermal_nm": 0.006, "slice_nm": 0.0}
    once = phase_object.exit_wave([atoms], **values)
    twice = phase_object.exit_wave([atoms / 2, atoms / 2], **values)
    np.testing.assert_allclose(once, twice, atol=2e-3 * np.abs(once).max())


def test_an_exit_wave_needs_a_slice() -> None:
    with pytest.raises(ValueError, match="slices"):
        phase_object.exit_wave(
            [], pixel_size_nm=PIXEL_NM, voltage_kv=80.0, thermal_nm=0.0, slice_nm=1.0
        )


def test_blurring_keeps_the_mean_and_lowers_the_deviation() -> None:
    image = np.random.default_rng(0).normal(2.0, 1.0, (N, N)).astype(np.float32)
    blurred = phase_object.blur(image, sigma=1.5)
    assert blurred.mean() == pytest.approx(image.mean(), abs=1e-5)
    assert blurred.std() < 0.3 * image.std()
