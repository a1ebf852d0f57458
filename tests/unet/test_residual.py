"""The lattice residual takes lattices and leaves everything else."""

from __future__ import annotations

import torch

from hrtem_stream.unet.residual import lattice_residual

SIZE = 128


def lattice(period: float = 5.0, angle: float = 0.3) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    image = torch.zeros(SIZE, SIZE)
    for k in range(3):
        turn = torch.tensor(angle + k * torch.pi / 3)
        image += torch.cos(2 * torch.pi / period * (rows * turn.sin() + columns * turn.cos()))
    return (image / image.std())[None, None]


def test_a_lattice_is_removed() -> None:
    noisy = lattice() + 0.3 * torch.randn(1, 1, SIZE, SIZE, generator=torch.manual_seed(0))
    inner = lattice_residual(noisy)[..., 16:-16, 16:-16]
    assert inner.std() < 0.45


def test_noise_and_coarse_texture_are_kept() -> None:
    noise = torch.randn(1, 1, SIZE, SIZE, generator=torch.manual_seed(1))
    kept = lattice_residual(noise)
    assert torch.corrcoef(torch.stack([noise.flatten(), kept.flatten()]))[0, 1] > 0.95
    coarse = lattice(period=20.0)
    change = (lattice_residual(coarse) - coarse)[..., 16:-16, 16:-16]
    assert change.std() < 0.1


def test_a_disc_of_noise_on_a_lattice_stands_out() -> None:
    image = lattice()
    image[..., 50:80, 50:80] += torch.randn(30, 30, generator=torch.manual_seed(2))
    residual = lattice_residual(image)
    assert residual[..., 50:80, 50:80].std() > 3 * residual[..., 20:45, 20:45].std()


def test_a_batch_is_worked_on_image_by_image() -> None:
    batch = torch.cat([lattice(5.0), lattice(7.0)])
    torch.testing.assert_close(
        lattice_residual(batch)[1:], lattice_residual(batch[1:]), atol=1e-4, rtol=1e-4
    )
