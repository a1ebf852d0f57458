"""Shapes, sizes and symmetries of the two networks."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from hrtem_stream.unet.architecture import Config, architecture, build, config_from
from hrtem_stream.unet.fast import FastConfig, clip_outliers
from hrtem_stream.unet.paper import PaperConfig, PaperNet
from tests.unet.frames import TINY

TINY_PAPER = PaperConfig(n_blocks=5, n_features=4)


def n_parameters(config: Config) -> int:
    return sum(parameter.numel() for parameter in build(config).parameters())


@pytest.mark.parametrize("config", [TINY, TINY_PAPER])
@pytest.mark.parametrize("size", [(64, 64), (50, 77), (33, 40)])
def test_any_image_size_comes_back_as_it_went_in(config: Config, size: tuple[int, int]) -> None:
    images = torch.randn(2, 1, *size)
    assert build(config)(images).shape == images.shape


@pytest.mark.parametrize("config", [TINY, TINY_PAPER])
def test_images_of_a_batch_do_not_influence_each_other(config: Config) -> None:
    torch.manual_seed(0)
    network, images = build(config).eval(), torch.randn(3, 1, 64, 64)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]), atol=1e-4, rtol=1e-4)


def test_the_published_networks_have_the_published_sizes() -> None:
    assert n_parameters(PaperConfig()) == pytest.approx(1.93e6, rel=0.01)
    assert n_parameters(PaperConfig(n_blocks=9, n_features=64)) == pytest.approx(31.0e6, rel=0.01)


def test_fast_is_small() -> None:
    assert n_parameters(FastConfig()) < 1e6


@pytest.mark.parametrize("n_blocks", [1, 4])
def test_a_number_of_blocks_without_a_middle_is_refused(n_blocks: int) -> None:
    with pytest.raises(ValueError, match="n_blocks"):
        PaperNet(PaperConfig(n_blocks=n_blocks))


@pytest.mark.parametrize("config", [TINY, TINY_PAPER])
def test_a_configuration_survives_its_own_fields(config: Config) -> None:
    assert config_from(architecture(config), asdict(config)) == config


def test_unknown_architectures_and_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="architecture"):
        config_from("slow", {})
    with pytest.raises(ValueError, match="fast"):
        config_from("fast", {"depth": 3})


def test_outliers_are_clipped_and_the_rest_standardised() -> None:
    images = torch.randn(2, 1, 64, 64, generator=torch.manual_seed(0))
    images[1, 0, :4, :4] = 1e4
    tame = clip_outliers(images)
    torch.testing.assert_close(
        tame[0], (images[0] - images[0].mean()) / images[0].std(), atol=0.05, rtol=0
    )
    assert tame[1].max() < 9.0
    assert tame[1, 0, 8:].std() > 0.95


def test_pixels_outside_the_beam_stay_zero() -> None:
    images = torch.randn(1, 1, 64, 64, generator=torch.manual_seed(0)) + 3.0
    images[..., :40] = 0.0
    tame = clip_outliers(images)
    assert not tame[..., :40].any()
    assert abs(float(tame[..., 40:].mean())) < 1e-5
    assert not clip_outliers(torch.zeros(1, 1, 64, 64)).any()
