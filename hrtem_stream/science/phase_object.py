"""Images of thin carbon specimens: phase object, aberrations, focal spread.

The specimen is given as numbers of carbon atoms per pixel, in slices along the beam. Each slice
shifts the phase of the electron wave, the wave travels freely between slices, and the aberrated
wave's intensity is averaged over the focal spread. Lengths in nm, spatial frequency g = 1/d in
1/nm, phases in radian. The grid wraps around: leave a margin and cut it off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Float = NDArray[np.float32]
Complex = NDArray[np.complex64]

# Doyle and Turner (1968), carbon: f(g) = sum a exp(-b g² / 4), a in Å, b in Å².
_CARBON_A = (0.7307, 1.1951, 0.4563, 0.1247)
_CARBON_B = (36.9951, 11.2966, 2.8139, 0.3456)
_REST_ENERGY_KEV = 510.99895


@dataclass(frozen=True, slots=True, kw_only=True)
class Optics:
    """The imaging lens. Aberration coefficients as in Krivanek's notation."""

    voltage_kv: float = 80.0
    C10_nm: float = 5.0
    """Defocus, negative for underfocus (the phase is +π λ C10 g²)."""
    C12_nm: float = 0.0
    """Twofold astigmatism."""
    phi12: float = 0.0
    """Azimuth of C12, radian."""
    C21_nm: float = 0.0
    """Axial coma."""
    phi21: float = 0.0
    C30_nm: float = 0.0
    """Third-order spherical aberration."""
    focal_spread_nm: float = 1.5
    """Standard deviation of the defocus."""
    semi_convergence_rad: float = 1e-4
    """Standard deviation of the illumination's angles."""
    vibration_nm: float = 0.02
    """Standard deviation of the image's displacement during the exposure."""
    n_foci: int = 3
    """Gauss–Hermite points over the focal spread."""


def wavelength_nm(voltage_kv: float) -> float:
    """Return the relativistic electron wavelength."""
    return 1.2264259 / float(np.sqrt(voltage_kv * 1e3 * (1.0 + 0.97847538e-3 * voltage_kv)))


def frequencies(n: int, pixel_size_nm: float) -> tuple[Float, Float]:
    """Return the frequency of each row and column, shapes (n, 1) and (1, n), in 1/nm."""
    g = np.fft.fftfreq(n, pixel_size_nm).astype(np.float32)
    return g[:, None], g[None, :]


def carbon_phase(g_squared: Float, *, voltage_kv: float, thermal_nm: float) -> Float:
    """Return the Fourier transform of one carbon atom's phase shift, in radian nm².

    σ V(g) = γ λ f(g) exp(-2 π² u² g²), the Mott–Bethe potential in the interaction constant.

    Parameters
    ----------
    g_squared : array of float32
        Squared spatial frequency in 1/nm².
    voltage_kv : float
        Acceleration voltage.
    thermal_nm : float
        Root mean square thermal displacement u along one axis.
    """
    gamma = 1.0 + voltage_kv / _REST_ENERGY_KEV
    factor: Float = np.zeros_like(g_squared)
    for a, b in zip(_CARBON_A, _CARBON_B, strict=True):
        factor += np.float32(0.1 * a) * np.exp(np.float32(-b / 400.0) * g_squared)
    factor *= np.float32(gamma * wavelength_nm(voltage_kv))
    factor *= np.exp(np.float32(-2.0 * np.pi**2 * thermal_nm**2) * g_squared)
    return factor


def aberration_phase(rows: Float, columns: Float, *, optics: Optics) -> Float:
    """Return χ(g) in radian, without focal spread.

    χ = 2π/λ [½ C10 α² + ½ C12 α² cos 2(φ-φ12) + ⅓ C21 α³ cos(φ-φ21) + ¼ C30 α⁴], α = λ g.
    """
    wavelength = wavelength_nm(optics.voltage_kv)
    g2 = rows**2 + columns**2
    alpha2 = np.float32(wavelength**2) * g2
    twofold = np.cos(2 * optics.phi12) * (columns**2 - rows**2)
    twofold = twofold + np.sin(2 * optics.phi12) * (2 * rows * columns)
    onefold = np.cos(optics.phi21) * columns + np.sin(optics.phi21) * rows
    chi = 0.5 * optics.C10_nm * alpha2
    chi = chi + 0.5 * optics.C12_nm * np.float32(wavelength**2) * twofold
    chi = chi + optics.C21_nm / 3.0 * np.float32(wavelength) * alpha2 * onefold
    chi = chi + 0.25 * optics.C30_nm * alpha2**2
    phase: Float = (2.0 * np.pi / wavelength * chi).astype(np.float32)
    return phase


def exit_wave(
    slices: Sequence[Float],
    *,
    pixel_size_nm: float,
    voltage_kv: float,
    thermal_nm: float,
    slice_nm: float,
) -> Complex:
    """Send a plane wave through slices of carbon atoms.

    Parameters
    ----------
    slices : sequence of (n, n) float32
        Carbon atoms per pixel, in the order in which the beam meets them; may be fractional.
    pixel_size_nm : float
        Size of a pixel.
    voltage_kv, thermal_nm : float
        See `carbon_phase`.
    slice_nm : float
        Free path after each slice but the last.

    Returns
    -------
    (n, n) complex64
        The wave's Fourier transform, not shifted.

    Raises
    ------
    ValueError
        Without a slice.

    Notes
    -----
    Within a slice the phase-object approximation holds; it fails for slices above 3 nm.
    """
    if not slices:
        raise ValueError("slices must not be empty")
    n = slices[0].shape[0]
    rows, columns = frequencies(n, pixel_size_nm)
    half = n // 2 + 1
    g2 = rows**2 + columns**2
    atom = carbon_phase(g2[:, :half], voltage_kv=voltage_kv, thermal_nm=thermal_nm)
    atom /= np.float32(pixel_size_nm**2)
    path = np.exp(np.complex64(-1j * np.pi * wavelength_nm(voltage_kv) * slice_nm) * g2)
    spectrum = np.zeros((n, n), np.complex64)
    spectrum[0, 0] = n * n
    for place, atoms in enumerate(slices):
        if place > 0:
            spectrum = spectrum * path
        phase = scipy.fft.irfft2(scipy.fft.rfft2(atoms) * atom, s=(n, n))
        spectrum = scipy.fft.fft2(scipy.fft.ifft2(spectrum) * np.exp(np.complex64(1j) * phase))
    return spectrum


def image_intensity(wave: Complex, *, pixel_size_nm: float, optics: Optics) -> Float:
    """Return the image of an exit wave, 1 where there is no specimen.

    I = Σ_j w_j |F⁻¹[ψ(g) exp(-i χ(g; C10 + Δ_j)) E(g)]|², blurred by the vibration; E is the
    envelope of partial spatial coherence.

    Parameters
    ----------
    wave : (n, n) complex64
        Fourier transform of the exit wave, as from `exit_wave`.
    pixel_size_nm : float
        Size of a pixel.
    optics : Optics
        The lens.

    Returns
    -------
    (n, n) float32
    """
    rows, columns = frequencies(wave.shape[0], pixel_size_nm)
    g2 = rows**2 + columns**2
    wavelength = wavelength_nm(optics.voltage_kv)
    gradient2 = (optics.C10_nm + optics.C30_nm * np.float32(wavelength**2) * g2) ** 2 * g2
    spatial = np.exp(np.float32(-2.0 * (np.pi * optics.semi_convergence_rad) ** 2) * gradient2)
    aberrated = wave * (spatial * np.exp(-1j * aberration_phase(rows, columns, optics=optics)))
    points, weights = np.polynomial.hermite_e.hermegauss(optics.n_foci)
    intensity = np.zeros(wave.shape, np.float32)
    for point, weight in zip(points, weights / weights.sum(), strict=True):
        shift = np.complex64(-1j * np.pi * wavelength * optics.focal_spread_nm * point)
        image = scipy.fft.ifft2(aberrated * np.exp(shift * g2))
        intensity += np.float32(weight) * (image.real**2 + image.imag**2)
    return blur(intensity, sigma=optics.vibration_nm / pixel_size_nm)


def blur(image: Float, *, sigma: float) -> Float:
    """Convolve a periodic square image with a Gaussian of `sigma` pixels."""
    n = image.shape[0]
    rows = np.fft.fftfreq(n).astype(np.float32)[:, None]
    columns = np.fft.rfftfreq(n).astype(np.float32)[None, :]
    decay = np.exp(np.float32(-2.0 * (np.pi * sigma) ** 2) * (rows**2 + columns**2))
    blurred: Float = scipy.fft.irfft2(scipy.fft.rfft2(image) * decay, s=image.shape)
    return blurred
