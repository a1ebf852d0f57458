"""segment and its fallback: whatever fails, every frame gets a mask, and says by which method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from hrtem_stream.errors import SegmenterError
from hrtem_stream.science import bragg
from hrtem_stream.science.bragg import bragg_mask, find_lattice, flatten
from hrtem_stream.science.lattice import Reflections
from hrtem_stream.stages.fallback import BraggSegmenter, Masks, WithFallback
from hrtem_stream.stages.segment import Segment, half_covered_lattice
from tests.stages.frames import SHAPE, normalised


class Fake:
    """A segmenter that calls everything amorphous above a level, and fails when told."""

    def __init__(self, method: str, level: float = 0.0) -> None:
        self.method = method
        self.level = level
        self.error: SegmenterError | None = None
        self.n_calls = 0

    def segment(self, images: NDArray[np.float32]) -> Masks:
        self.n_calls += 1
        if self.error is not None:
            raise self.error
        confidence = np.full(len(images), 0.8, np.float32)
        return Masks(self.method, images > self.level, confidence)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _pair(**changes: object) -> tuple[Fake, Fake, Clock, list[str], WithFallback]:
    unet, bragg, clock = Fake("unet"), Fake("bragg", level=0.5), Clock()
    reasons: list[str] = []
    both = WithFallback(
        unet, fallback=bragg, clock=clock, note_switch=reasons.append, **changes  # type: ignore[arg-type]
    )  # fmt: skip
    return unet, bragg, clock, reasons, both


def _stage(segmenter: WithFallback, **changes: object) -> Segment:
    return Segment(segmenter, working_size=SHAPE[0], **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        SegmenterError("CUDA error: an illegal memory access", "device"),
        SegmenterError("out of memory for one image", "out_of_memory"),
        SegmenterError("output must be finite, got NaN", "not_finite"),
    ],
)
def test_a_batch_on_which_the_segmenter_fails_goes_to_the_bragg_filter(
    error: SegmenterError,
) -> None:
    unet, _, _, reasons, both = _pair()
    unet.error = error
    results = _stage(both).process([normalised(0), normalised(1)])
    assert [result.method for result in results] == ["bragg", "bragg"]
    assert reasons == [error.reason]


def test_the_failed_segmenter_is_tried_again_after_a_time_that_doubles() -> None:
    unet, _, clock, reasons, both = _pair()
    images = np.zeros((1, *SHAPE), np.float32)
    unet.error = SegmenterError("broken")
    tried = []
    for _ in range(80):
        n_before = unet.n_calls
        both.segment(images)
        if unet.n_calls > n_before:
            tried.append(clock.now_s - 100)
        clock.now_s += 0.5
    assert tried == [0, 1, 3, 7, 15, 31]
    assert len(reasons) == 80
    unet.error = None
    clock.now_s += 60
    assert both.segment(images).method == "unet"
    unet.error = SegmenterError("broken")
    both.segment(images)
    clock.now_s += 1.0
    unet.error = None
    assert both.segment(images).method == "unet", "after a success the first wait is short again"


def test_frames_that_waited_too_long_go_to_the_quicker_filter() -> None:
    unet, _, _, reasons, both = _pair(oldest_s=2.0)
    frames = [normalised(0)]
    young = _stage(both, clock_ns=lambda: 2_500_000_000).process(frames)
    old = _stage(both, clock_ns=lambda: 3_500_000_000).process(frames)
    assert (young[0].method, old[0].method) == ("unet", "bragg")
    assert reasons == ["backlog"]
    assert unet.n_calls == 1


def test_frames_with_a_fault_are_passed_on_and_count_as_nothing() -> None:
    _, _, _, _, both = _pair()
    frames = [normalised(0), normalised(1, fault="blank"), normalised(2)]
    results = _stage(both).process(frames)
    assert [result.method for result in results] == ["unet", "none", "unet"]
    assert [result.header.row for result in results] == [0, 1, 2]
    assert results[1].graphene_fraction == results[1].amorphous_fraction == 0.0
    assert not results[1].amorphous.any()


@pytest.mark.parametrize(("fails", "amorphous", "vacuum"), [(True, 0.5, 0.25), (False, 0.75, 0.0)])
def test_vacuum_and_beam_off_are_neither_graphene_nor_amorphous(
    fails: bool, amorphous: float, vacuum: float
) -> None:
    """What the network calls amorphous is no hole; of the Bragg filter's mask holes are cut."""
    unet, _, _, _, both = _pair()
    unet.error = SegmenterError("broken") if fails else None
    hole, beam_off = np.zeros(SHAPE, np.bool_), np.zeros(SHAPE, np.bool_)
    hole[:16], beam_off[48:] = True, True
    frame = replace(normalised(0, np.ones(SHAPE)), vacuum=hole, beam_off=beam_off)
    (result,) = _stage(both).process([frame])
    assert (result.amorphous_fraction, result.vacuum_fraction) == (amorphous, vacuum)
    assert result.beam_off_fraction == 0.25
    assert result.graphene_fraction == 0.0
    assert not (result.amorphous & (result.vacuum | result.beam_off)).any()


def test_an_empty_frame_stays_empty_whatever_the_network_says() -> None:
    _, _, _, _, both = _pair()
    beam_off = np.zeros(SHAPE, np.bool_)
    beam_off[48:] = True
    frame = replace(normalised(0, np.ones(SHAPE)), vacuum=~beam_off, beam_off=beam_off)
    (result,) = _stage(both).process([frame])
    assert (result.amorphous_fraction, result.vacuum_fraction) == (0.0, 0.75)


def test_the_agreement_of_both_methods_is_measured_on_a_share_of_the_frames() -> None:
    _, bragg, _, _, both = _pair()
    results = _stage(both, agreement_share=0.5).process([normalised(row) for row in range(4)])
    sampled = [not np.isnan(result.agreement) for result in results]
    assert sampled == [True, False, True, False]
    image = normalised(0).image
    assert results[0].agreement == pytest.approx(np.mean((image > 0) == (image > 0.5)))
    assert results[0].confidence == pytest.approx(0.8)
    assert bragg.n_calls == 1


def test_a_method_is_not_compared_with_itself() -> None:
    unet, bragg, _, _, both = _pair()
    unet.error = SegmenterError("broken")
    (result,) = _stage(both, agreement_share=1.0).process([normalised(0)])
    assert np.isnan(result.agreement)
    assert bragg.n_calls == 1


def test_a_filter_takes_every_step_while_it_is_warmed_up() -> None:
    """On noise it finds no lattice and stops; the rest was then loaded for the first frame."""
    covered, may_be_changed = [], []

    class Watched(BraggSegmenter):
        def segment(
            self, images: NDArray[np.float32], *, reflections: Sequence[Reflections | None] = ()
        ) -> Masks:
            masks = super().segment(images, reflections=reflections)
            covered.append(float(masks.amorphous.mean()))
            may_be_changed.append(images.flags.writeable)
            return masks

    Segment(WithFallback(Watched(), fallback=Watched()), working_size=256).warm_up()
    assert covered == [pytest.approx(0.5, abs=0.1)] * 4
    assert may_be_changed == [False, False, True, True], "as frames come alone and together"


def test_the_filter_does_not_search_for_reflections_that_came_with_the_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = half_covered_lattice(64)
    mask = bragg_mask(image)
    known = find_lattice(flatten(image))
    empty = np.zeros(image.shape, np.bool_)
    frames = [
        replace(normalised(row, image), vacuum=empty, beam_off=empty, reflections=reflections)
        for row, reflections in enumerate((known, known[:0]))
    ]
    monkeypatch.setattr(bragg, "find_reflections", None)
    stage = _stage(WithFallback(BraggSegmenter(), fallback=BraggSegmenter()))
    with_lattice, without = stage.process(frames)
    assert 0.3 < mask.mean() < 0.7
    assert (with_lattice.amorphous == mask).all()
    assert without.amorphous.all()


def test_every_result_is_noted() -> None:
    _, _, _, _, both = _pair()
    noted: list[str] = []
    note: Callable = lambda frame: noted.append(frame.method)  # noqa: E731
    _stage(both, note=note).process([normalised(0), normalised(1, fault="blank")])
    assert sorted(noted) == ["none", "unet"]


def test_an_image_by_itself_is_not_copied() -> None:
    frame = normalised(0)
    shared = []

    class Watched(Fake):
        def segment(self, images: NDArray[np.float32]) -> Masks:
            shared.append(np.shares_memory(images, frame.image))
            return super().segment(images)

    stage = _stage(WithFallback(Watched("unet"), fallback=Fake("bragg")))
    (alone,) = stage.process([frame])
    together = stage.process([frame, frame])
    assert shared == [True, False]
    assert all(np.array_equal(other.amorphous, alone.amorphous) for other in together)


def test_working_images_of_several_sizes_are_segmented_in_order() -> None:
    unet, _, _, _, both = _pair()
    sizes = [(64, 64), (100, 80), (64, 64)]
    frames = []
    for row, size in enumerate(sizes):
        empty = np.zeros(size, np.bool_)
        empty[: size[0] // 2] = True
        frame = normalised(row, np.full(size, -1.0))
        frames.append(replace(frame, vacuum=empty, beam_off=~empty & empty, scale="spectrum"))
    results = _stage(both).process(frames)
    assert unet.n_calls == 2
    assert [result.header.row for result in results] == [0, 1, 2]
    assert [result.amorphous.shape for result in results] == sizes
    assert all(result.vacuum.shape == result.thumbnail.shape for result in results)
    assert all(result.vacuum_fraction == 0.5 for result in results)
    assert all(result.vacuum.mean() == 0.5 for result in results)
    assert {result.scale for result in results} == {"spectrum"}
