"""Shares of a series."""

from __future__ import annotations

import itertools

import pytest

from hrtem_stream.share import Share, share_note, without_share


@pytest.mark.parametrize(("n_frames", "n_shares"), [(10, 3), (3, 5), (1, 1), (1000, 7)])
def test_shares_follow_each_other_and_differ_by_one_at_most(n_frames: int, n_shares: int) -> None:
    bounds = [Share(number, n_shares).bounds(n_frames) for number in range(1, n_shares + 1)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == n_frames
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    sizes = [end - begin for begin, end in bounds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "a", "1/0", "1/99999999", "-1/2"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a share must be i/n"):
        Share.parse(text)


def test_a_series_tells_which_share_it_is() -> None:
    told = {"a": "b"} | Share(2, 3).metadata(10)
    note = share_note(told)
    assert note is not None
    assert (str(note.share), note.first, note.n_frames) == ("2/3", 3, 10)
    assert without_share(told) == {"a": "b"}
    assert share_note({"a": "b"}) is None
    assert Share().metadata(10) == {}
    with pytest.raises(ValueError, match="cannot begin at 4"):
        share_note(told | {"share_first": "4"})
