import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hrtem_stream.archive.ledger import Loss, lost_ranges

losses = st.lists(
    st.builds(
        Loss,
        first=st.integers(0, 60),
        n_frames=st.integers(0, 20),
        reason=st.sampled_from(("gap", "full")),
    ),
    max_size=8,
)


@given(declared=losses, archived=st.lists(st.integers(0, 80)))
def test_lost_is_what_was_declared_and_did_not_come_after_all(declared, archived):
    reasons = {}
    for loss in declared:
        for sequence in range(loss.first, loss.first + loss.n_frames):
            reasons.setdefault(sequence, loss.reason)
    expected = {n: reason for n, reason in reasons.items() if n not in archived}
    found = lost_ranges(declared, archived=np.array(archived, np.int64))
    assert {
        n: loss.reason for loss in found for n in range(loss.first, loss.first + loss.n_frames)
    } == expected
    assert sum(loss.n_frames for loss in found) == len(expected)
    assert [loss.first for loss in found] == sorted(loss.first for loss in found)


def test_a_hundred_thousand_losses_are_added_up_in_a_second():
    declared = [Loss(first=3 * n, n_frames=2, reason="gap") for n in range(100_000)]
    began = time.process_time()
    assert len(lost_ranges(declared, archived=np.arange(2, 300_000, 3))) == 100_000
    assert time.process_time() - began < 5.0  # quadratic, it would be minutes
