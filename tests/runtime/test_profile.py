import time

from hrtem_stream.runtime.meter import Meter
from hrtem_stream.runtime.profile import (
    StageProfile,
    bottleneck,
    read_profiles,
    write_profile,
)


def profile(name, *, wait_s, cpu_s=1.0, **others):
    return StageProfile(
        name=name, n_frames=100, elapsed_s=10.0, cpu_s=cpu_s, wait_s=wait_s, copy_s=0.1,
        work_s=1.0, **others,
    )  # fmt: skip


def test_the_bottleneck_is_the_stage_that_hardly_waits():
    stages = [profile("ingest", wait_s=9.0), profile("normalise", wait_s=0.5, cpu_s=9.0)]
    assert bottleneck(stages, n_processors=8) == "normalise"


def test_threads_that_always_have_work_make_a_stage_the_bottleneck():
    sort = profile("sort", wait_s=8.0, cpu_s=20.0, threads_s=19.0, n_threads=2)
    assert bottleneck([profile("ingest", wait_s=9.0), sort], n_processors=8) == "sort"


def test_stages_that_all_wait_hang_on_the_feed():
    stages = [profile("ingest", wait_s=9.0), profile("normalise", wait_s=6.0)]
    assert bottleneck(stages, n_processors=8) == "the feed"


def test_stages_that_share_too_few_processors_hang_on_these():
    stages = [profile("normalise", wait_s=4.0, cpu_s=6.0), profile("sort", wait_s=2.0, cpu_s=13.0)]
    assert bottleneck(stages, n_processors=2) == (
        "the 2 processors, 1.9 of them busy; sort needs most"
    )


def test_nothing_is_said_of_a_session_without_stages():
    assert bottleneck([], n_processors=2) == "unknown"


def test_time_counts_from_the_first_frame_on_and_is_in_the_metrics():
    meter = Meter("normalise")
    with meter.spend("wait"):
        time.sleep(0.03)
    with meter.spend("copy"):
        pass
    with meter.spend("work"):
        time.sleep(0.02)
    split = meter.stopwatch.profile("normalise", 1)
    assert split.wait_s == 0.0
    assert 0.02 <= split.work_s <= split.elapsed_s
    metric = {"stage": "normalise", "part": "work"}
    assert meter.registry.get_sample_value("hrtem_loop_seconds_total", metric) >= 0.02


def test_what_a_process_leaves_is_read_again(tmp_path):
    first, second = profile("segment 0", wait_s=1.0), profile("sort", wait_s=2.0)
    write_profile(tmp_path, second)
    write_profile(tmp_path, first)
    assert read_profiles(tmp_path) == [first, second]
