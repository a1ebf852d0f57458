"""The few kinds of error, told apart by what the runner does about them."""


class HrtemError(Exception):
    """Base of every error that the project raises on purpose."""


class SettingsError(HrtemError):
    """A setting is wrong: stop before any socket opens, exit 2."""


class FrameError(HrtemError):
    """One frame cannot be analysed: set it aside, count it, archive it raw."""


class SegmenterError(HrtemError):
    """The segmenter failed: hand the batch to the Bragg filter, recorded in `method`."""

    def __init__(self, message: str, reason: str = "failed") -> None:
        """Keep `reason`, one fixed word for the metric label, beside the sentence for people."""
        super().__init__(message)
        self.reason = reason


class ArchiveError(HrtemError):
    """The archive cannot be written or read: stop the stage, frames wait upstream."""


class FeedError(HrtemError):
    """The feed cannot be reached or speaks another language, exit 4."""


class LogError(HrtemError):
    """The frame log cannot be opened, or a record in it is not what was asked for."""


class WireError(HrtemError):
    """A message breaks the wire format: drop it and count it by `reason`."""

    def __init__(self, reason: str, message: str) -> None:
        """Keep `reason`, one fixed word for the metric label, beside the sentence for people."""
        super().__init__(message)
        self.reason = reason
