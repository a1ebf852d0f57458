"""The strip: what turns amber or red, and what it says then."""

from __future__ import annotations

from typing import Any

import pytest

from hrtem_stream.runtime.pause import PAUSED
from hrtem_stream.runtime.readings import Reading
from hrtem_stream.web.strip import NAMES, Situation, StageState, judge, worst

ALIVE = Reading(pid=1, is_alive=True, beat_age_s=0.05, n_done=9)


def _judged(**changes: Any) -> dict[str, StageState]:
    readings = {name: [ALIVE] for name in NAMES[1:]} | changes.pop("readings", {})
    known = {"rates": dict.fromkeys(NAMES, 10.0), "is_open": True, "recent_methods": ["unet"]}
    states = judge(Situation(readings=readings, **(known | changes)))
    assert tuple(state.name for state in states) == NAMES
    return {state.name: state for state in states}


def test_a_healthy_session_is_ok_and_says_nothing() -> None:
    states = _judged()
    assert {state.level for state in states.values()} == {"ok"}
    assert worst(list(states.values())) is None


def test_without_a_series_the_stages_are_idle() -> None:
    assert {state.level for state in _judged(is_open=False).values()} == {"idle"}


@pytest.mark.parametrize(
    ("changes", "stage", "level", "word"),
    [
        ({"n_lost": 3, "lost_reason": "frame log full"}, "ingest", "red", "capacity_mib"),
        ({"n_lost": 3, "lost_reason": "missing at the feed"}, "ingest", "red", "camera"),
        ({"n_lost": 3, "lost_reason": PAUSED}, "ingest", "amber", "declared"),
        ({"recent_methods": ["unet", "bragg"]}, "segment", "amber", "Bragg filter stands in"),
        ({"recent_methods": ["none"]}, "segment", "amber", "archived raw"),
        ({"feed_silent_s": 9.0}, "camera", "amber", "No frame came"),
        ({"archive_silent_s": 9.0, "feed_silent_s": 9.0}, "sort", "red", "Nothing is lost"),
        ({"paused_s": 2.0}, "camera", "amber", "declared as not saved"),
        ({"paused_s": 2.0, "waits_when_paused": True}, "camera", "amber", "recording waits"),
        ({"free_bytes": 0, "folder": "/data"}, "sort", "red", "/data is full"),
        ({"free_bytes": 10**12, "full_in_s": 120.0}, "sort", "amber", "2 minutes"),
        ({"readings": {"sort": [Reading(pid=1, is_alive=True, n_done=1, beat_age_s=5.0)]}},
         "sort", "red", "has not moved for 5 s"),
        ({"readings": {"normalise": [Reading(pid=1)]}}, "normalise", "red", "started again"),
        ({"readings": {"ingest": [Reading(
            pid=1, is_alive=True, beat_age_s=0.1,
            values={"frame_log_fill_ratio": 0.9, "in_progress_frames": 5},
        )]}}, "ingest", "amber", "90% full"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_to_do(
    changes: dict[str, Any], stage: str, level: str, word: str
) -> None:
    states = _judged(**changes)
    assert states[stage].level == level
    assert word in states[stage].sentence
    assert worst(list(states.values())) == states[stage]


def test_a_session_whose_supervisor_is_dead_is_said_to_be_and_not_to_come_back() -> None:
    dead = {name: [Reading(pid=1)] for name in NAMES[1:]}
    states = _judged(readings=dead, is_supervised=False, folder="/archives")
    assert [states[name].level for name in NAMES] == ["idle", *["red"] * 4]
    matter = worst(list(states.values()))
    assert matter is not None
    assert "nobody starts it again" in matter.sentence
    assert "reached the frame log is safe" in matter.sentence
    assert "recover /archives" in matter.sentence
    assert not any("started again by itself" in state.sentence for state in states.values())


def test_a_frame_log_that_is_gone_is_not_said_to_be_safe() -> None:
    dead = {name: [Reading(pid=1)] for name in NAMES[1:]}
    states = _judged(readings=dead, is_supervised=False, has_log=False, folder="/archives")
    assert "frame log is gone" in states["ingest"].sentence
    assert "reached the frame log is safe" not in states["ingest"].sentence
    assert "recover /archives" in states["ingest"].sentence


def test_the_reason_of_a_fallback_is_named() -> None:
    reading = Reading(
        pid=1, is_alive=True, labelled={"segmenter_fallbacks": {"too_slow": 4.0, "failed": 1.0}}
    )
    states = _judged(recent_methods=["bragg"], readings={"segment": [ALIVE, reading]})
    assert "too slow" in states["segment"].sentence


def test_a_bragg_filter_that_was_asked_for_is_no_fallback() -> None:
    assert _judged(recent_methods=["bragg"], wishes="bragg")["segment"].level == "ok"


def test_a_stage_that_still_compiles_its_first_frame_is_no_stall() -> None:
    starting = Reading(pid=1, is_alive=True, beat_age_s=30.0, n_done=0)
    assert _judged(readings={"segment": [starting]})["segment"].level == "ok"


def test_a_loss_is_shown_before_a_fallback() -> None:
    states = _judged(n_lost=1, lost_reason="frame log full", recent_methods=["bragg"])
    found = worst(list(states.values()))
    assert found is not None
    assert found.name == "ingest"


def _remote(**changes: Any) -> Reading:
    known = {"pid": 5, "is_alive": True, "beat_age_s": 0.3, "n_done": 4, "host": "gpu0"}
    return Reading(**{**known, **changes})


def test_stages_on_other_hosts_are_alive_where_marks_tell_of_them() -> None:
    states = _judged(readings={"segment": [_remote(), _remote(host="gpu1", index=1)]})
    assert {state.level for state in states.values()} == {"ok"}


@pytest.mark.parametrize(
    ("readings", "word"),
    [
        ([_remote(), _remote(host="gpu1", index=1, is_alive=False, beat_age_s=9.0)],
         "segment 1 on gpu1 was not heard for 9 s. Nothing is lost: the others do its work"),
        ([_remote(), _remote(host="gpu1")], "segment 0 runs twice, on gpu0 and gpu1"),
    ],
)  # fmt: skip
def test_what_is_wrong_on_another_host_is_said(readings: list[Reading], word: str) -> None:
    state = _judged(readings={"segment": readings})["segment"]
    assert (state.level, word in state.sentence) == ("amber", True)
