"""What a stage between `ingest` and `sort` is: a function of batches, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

Taken = TypeVar("Taken")
Given = TypeVar("Given")


class Stage(ABC, Generic[Taken, Given]):
    """A stage takes frames and gives one result for each, in order; it opens nothing itself."""

    name: str

    @abstractmethod
    def process(self, batch: Sequence[Taken]) -> list[Given]:
        """Work on a batch; a frame that cannot be used yields a result that says so."""

    @abstractmethod
    def pass_on(self, frame: Taken, reason: str) -> Given:
        """Give the result of a frame that must not be worked on."""

    def warm_up(self) -> None:
        """Load and compile what the first frame needs, before the stage subscribes."""

    def follow_log(self, log_id: int) -> None:
        """Make ready for the frames of a log, before the first of them comes."""

    def flush(self) -> None:
        """Finish what is held back, at the end."""
