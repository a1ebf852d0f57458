"""The frame log: what is appended is there, also after a kill at any moment."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.errors import LogError, SettingsError
from hrtem_stream.transport.frame_log import FrameLog, FrameLogReader, read_log
from hrtem_stream.transport.log_format import NEXT_ORDINAL, NEXT_ORDINAL_OFFSET, RING_START


def _frame(value: int, shape: tuple[int, int] = (8, 16)) -> np.ndarray:
    return np.full(shape, value % 65536, np.uint16)


def _append(log: FrameLog, value: int, shape: tuple[int, int] = (8, 16)):
    return log.append(1, b"meta %d" % value, b"account", _frame(value, shape))


def test_a_reader_sees_the_pixels_that_were_appended(tmp_path: Path) -> None:
    log = FrameLog.create(tmp_path / "log", 1 << 20)
    record = _append(log, 7)
    reader = FrameLogReader(tmp_path / "log")
    pixels = reader.pixels(log.log_id, record.ordinal, record.offset, "<u2", (8, 16))
    assert (pixels == 7).all()
    assert not pixels.flags.writeable
    assert record.digest == xxhash.xxh3_64_intdigest(_frame(7).tobytes())


def test_a_log_that_is_followed_is_open_before_a_frame_asks_for_it(tmp_path: Path) -> None:
    log = FrameLog.create(tmp_path / "log", 1 << 20)
    record = _append(log, 7)
    reader = FrameLogReader(tmp_path / "log")
    assert not reader.still_there(record.ordinal, record.offset)
    reader.follow(log.log_id)
    assert reader.still_there(record.ordinal, record.offset)
    FrameLogReader(tmp_path / "no log on this host").follow(log.log_id)


def test_ordinals_are_dense_and_go_on_after_a_restart(tmp_path: Path) -> None:
    log = FrameLog.create(tmp_path / "log", 1 << 20)
    ordinals = [_append(log, value).ordinal for value in range(5)]
    log.close()
    again, records = FrameLog.take_over(tmp_path / "log")
    assert ordinals == [record.ordinal for record in records] == list(range(5))
    assert _append(again, 5).ordinal == 5
    assert again.generation == 2


def test_records_that_are_not_acknowledged_are_never_overwritten(tmp_path: Path) -> None:
    log = FrameLog.create(tmp_path / "log", 4096)
    n_appended = 0
    while log.fits(16, 256):
        _append(log, n_appended)
        n_appended += 1
    with pytest.raises(LogError, match="full"):
        _append(log, 99)
    log.acknowledge(1)
    assert log.fits(16, 256)
    _append(log, n_appended)
    assert not log.fits(16, 256)
    assert [record.ordinal for record in read_log(log.path)[2]] == list(range(1, n_appended + 1))


def test_a_record_larger_than_the_log_is_refused_with_the_setting_to_raise(tmp_path: Path) -> None:
    log = FrameLog.create(tmp_path / "log", 4096)
    with pytest.raises(LogError, match="capacity_mib"):
        log.fits(16, 1 << 20)


def test_a_torn_last_record_is_cut(tmp_path: Path) -> None:
    log = FrameLog.create(tmp_path / "log", 1 << 20)
    for value in range(3):
        last = _append(log, value)
    struct.pack_into("<Q", log._buffer, RING_START + last.offset, 0)
    NEXT_ORDINAL.pack_into(log._buffer, NEXT_ORDINAL_OFFSET, last.ordinal)
    log.close()
    again, records = FrameLog.take_over(tmp_path / "log")
    assert [record.ordinal for record in records] == [0, 1]
    assert again.next_ordinal == 2


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_log_with_a_damaged_record_is_not_taken_over(tmp_path: Path, victim: int) -> None:
    log = FrameLog.create(tmp_path / "log", 1 << 20)
    records = [_append(log, value) for value in range(3)]
    log._buffer[RING_START + records[victim].offset + 66] ^= 1  # in its meta
    log.close()
    with pytest.raises(LogError, match=f"record {victim} is damaged, and 3 were appended"):
        FrameLog.take_over(tmp_path / "log")


def test_a_log_of_before_the_host_was_restarted_is_not_taken_over(tmp_path: Path) -> None:
    log = FrameLog.create(tmp_path / "log", 1 << 20, boot=b"one boot".ljust(16))
    _append(log, 0)
    log.close()
    FrameLog.take_over(tmp_path / "log", boot=b"one boot".ljust(16))[0].close()
    with pytest.raises(LogError, match="before the host was restarted"):
        FrameLog.take_over(tmp_path / "log", boot=b"another boot".ljust(16))


def test_a_log_that_is_written_is_not_taken_over(tmp_path: Path) -> None:
    log = FrameLog.create(tmp_path / "log", 1 << 20)
    with pytest.raises(SettingsError, match="in use"):
        FrameLog.take_over(tmp_path / "log")
    log.close()
    FrameLog.take_over(tmp_path / "log")[0].close()


def test_a_kill_while_a_frame_larger_than_half_the_log_is_written_keeps_the_account(
    tmp_path: Path,
) -> None:
    log = FrameLog.create(tmp_path / "log", 8192)
    for n in range(1, 5):
        last = log.append(1, b"meta", b"account %d" % n, _frame(0, (40, 64)))
        log.acknowledge(min(n, 3))
    assert len(read_log(log.path)[2]) == 1
    struct.pack_into("<Q", log._buffer, RING_START + last.offset, 0)
    NEXT_ORDINAL.pack_into(log._buffer, NEXT_ORDINAL_OFFSET, last.ordinal)
    log.close()
    again, records = FrameLog.take_over(tmp_path / "log")
    assert (records, again.next_ordinal, again.account) == ([], 3, b"account 3")


def test_the_fill_is_what_the_unacknowledged_records_take(tmp_path: Path) -> None:
    log = FrameLog.create(tmp_path / "log", 4096)
    for value in range(4):
        _append(log, value)
    assert log.fill == 4 * 384 / 4096
    log.acknowledge(3)
    log.close()
    log, _ = FrameLog.take_over(tmp_path / "log")
    assert log.fill == 384 / 4096


def test_a_reader_notices_that_a_record_was_overwritten(tmp_path: Path) -> None:
    log = FrameLog.create(tmp_path / "log", 4096)
    first = _append(log, 0)
    reader = FrameLogReader(log.path)
    reader.pixels(log.log_id, first.ordinal, first.offset, "<u2", (8, 16))
    for value in range(1, 40):
        log.acknowledge(value)
        _append(log, value)
    assert not reader.still_there(first.ordinal, first.offset)
    with pytest.raises(LogError, match="any more"):
        reader.pixels(log.log_id, first.ordinal, first.offset, "<u2", (8, 16))


def test_a_reader_follows_a_log_that_was_replaced(tmp_path: Path) -> None:
    old = FrameLog.create(tmp_path / "log", 1 << 16)
    record = _append(old, 1)
    reader = FrameLogReader(old.path)
    reader.pixels(old.log_id, record.ordinal, record.offset, "<u2", (8, 16))
    new = FrameLog.create(tmp_path / "log", 1 << 16)
    other = _append(new, 2)
    pixels = reader.pixels(new.log_id, other.ordinal, other.offset, "<u2", (8, 16))
    assert (pixels == 2).all()
    with pytest.raises(LogError, match="asked for"):
        reader.pixels(old.log_id, record.ordinal, record.offset, "<u2", (8, 16))


@pytest.mark.parametrize("offset", [-64, 3, 1 << 40])
def test_a_place_outside_the_log_is_refused(tmp_path: Path, offset: int) -> None:
    log = FrameLog.create(tmp_path / "log", 4096)
    with pytest.raises(LogError, match="does not lie"):
        FrameLogReader(log.path).pixels(log.log_id, 0, offset, "<u2", (8, 16))


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100_000)
    with pytest.raises(LogError, match="not a frame log"):
        FrameLog.take_over(path)
    path.write_bytes(b"x")
    with pytest.raises(LogError, match="too short"):
        FrameLog.take_over(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_history_of_appends_acknowledgements_and_restarts_keeps_the_unacknowledged(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = FrameLog.create(path, 8192)
    kept: dict[int, np.ndarray] = {}
    for _ in range(data.draw(st.integers(1, 60))):
        action = data.draw(st.sampled_from(["append", "append", "acknowledge", "restart"]))
        if action == "append":
            rows = data.draw(st.integers(1, 40))
            pixels = _frame(log.next_ordinal, (rows, 16))
            if log.fits(20, pixels.nbytes):
                record = log.append(1, b"m" * 10, b"a" * 10, pixels)
                kept[record.ordinal] = pixels
        elif action == "acknowledge":
            base = data.draw(st.integers(log.base, log.next_ordinal))
            log.acknowledge(base)
            kept = {ordinal: pixels for ordinal, pixels in kept.items() if ordinal >= base}
        else:
            base = log.base
            log.close()
            log, records = FrameLog.take_over(path)
            assert log.base == base
            assert set(kept) <= {record.ordinal for record in records}
        reader = FrameLogReader(path)
        found = {record.ordinal: record for record in read_log(path)[2]}
        for ordinal, pixels in kept.items():
            stored = reader.pixels(log.log_id, ordinal, found[ordinal].offset, "<u2", pixels.shape)
            assert (stored == pixels).all()
    log.close()


KILLED_WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import numpy as np
    from hrtem_stream.errors import LogError, SettingsError
    from hrtem_stream.transport.frame_log import FrameLog
    path = Path(sys.argv[1])
    log = FrameLog.take_over(path)[0] if path.exists() else FrameLog.create(path, 20_000)
    print(log.next_ordinal, flush=True)
    while True:
        shape = (1 + log.next_ordinal % 37, 16)
        pixels = np.full(shape, log.next_ordinal % 65536, np.uint16)
        if not log.fits(40, pixels.nbytes):
            log.acknowledge(log.base + 3)
            continue
        log.append(1, b"m" * 20, b"a" * 20, pixels)
    """
)


@pytest.mark.processes
def test_after_kills_inside_append_the_log_holds_a_whole_dense_sequence(tmp_path: Path) -> None:
    path = tmp_path / "log"
    expected = 0
    for attempt in range(25):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED_WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        with writer:
            assert writer.stdout is not None
            first = int(writer.stdout.readline())
            assert first == expected, f"attempt {attempt}: ordinals repeat or skip"
            time.sleep(0.001 * (attempt % 7))
            writer.send_signal(signal.SIGKILL)
        log, records = FrameLog.take_over(path)
        expected = log.next_ordinal
        if not records:  # killed before its first append
            assert expected == 0
            log.close()
            continue
        assert [r.ordinal for r in records] == list(range(records[0].ordinal, expected))
        assert records[0].ordinal <= log.base
        reader = FrameLogReader(path)
        for record in records:
            shape = (1 + record.ordinal % 37, 16)
            pixels = reader.pixels(log.log_id, record.ordinal, record.offset, "<u2", shape)
            assert (pixels == record.ordinal % 65536).all()
            assert record.digest == xxhash.xxh3_64_intdigest(pixels.tobytes())
        log.close()
