"""Poison: the culprit is condemned, its neighbours are cleared."""

from __future__ import annotations

from pathlib import Path

from hrtem_stream.runtime.suspicion import Suspicions


def _started(path: Path, log_id: int = 1) -> Suspicions:
    suspicions = Suspicions(path)
    suspicions.follow_log(log_id)
    return suspicions


def test_the_frames_in_hand_at_a_death_become_suspects(tmp_path: Path) -> None:
    _started(tmp_path / "s").note([4, 5, 6])
    again = _started(tmp_path / "s")
    assert [again.is_suspect(ordinal) for ordinal in (3, 4, 6, 7)] == [False, True, True, False]
    assert not again.is_condemned(5)


def test_a_second_death_with_the_same_frame_condemns_it_and_survivors_are_cleared(
    tmp_path: Path,
) -> None:
    _started(tmp_path / "s").note([4, 5])
    second = _started(tmp_path / "s")
    second.note([4])
    second.wipe()
    second.clear(4)
    second.note([5])
    third = _started(tmp_path / "s")
    assert third.is_condemned(5)
    assert not third.is_suspect(4)


def test_work_that_was_finished_raises_no_suspicion(tmp_path: Path) -> None:
    first = _started(tmp_path / "s")
    first.note([4])
    first.wipe()
    assert not _started(tmp_path / "s").is_suspect(4)


def test_another_log_has_other_ordinals_so_suspicions_end_with_their_log(tmp_path: Path) -> None:
    _started(tmp_path / "s").note([4])
    assert not _started(tmp_path / "s", log_id=2).is_suspect(4)


def test_frames_of_other_workers_that_lie_between_are_not_suspected(tmp_path: Path) -> None:
    _started(tmp_path / "s").note([4, 9, 12])
    again = _started(tmp_path / "s")
    assert [n for n in range(16) if again.is_suspect(n)] == [4, 9, 12]


def test_a_file_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"\x01" * 8216)
    assert not any(_started(tmp_path / "s").is_suspect(n) for n in range(16))
