from hrtem_stream.stages.backlog import Backlog


def test_a_short_burst_is_nothing_to_speak_of():
    backlog = Backlog()
    said = [backlog.note(n_waiting=n, fill=0.1, now_s=now) for now, n in enumerate((5, 9, 0, 5, 0))]
    assert said == [""] * 5


def test_a_lasting_backlog_is_said_once_in_a_while_and_its_end_once():
    backlog = Backlog()
    said = [backlog.note(n_waiting=50, fill=0.4, now_s=float(now)) for now in range(40)]
    spoken = [now for now, text in enumerate(said) if text]
    assert spoken == [2, 32]
    assert "50 frames wait, the frame log is 40% full" in said[2]
    assert backlog.note(n_waiting=0, fill=0.0, now_s=41.0).endswith("keep up with the feed again")
    assert backlog.note(n_waiting=0, fill=0.0, now_s=42.0) == ""
