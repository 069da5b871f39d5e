"""What can go wrong between bags and scores, as exceptions whose text is one helpful sentence."""

import re


def cause(error: BaseException) -> str:
    """The text of an error of a library, on one line, at most 200 characters, without the place in its source."""
    return re.sub(r"^\[\S+\] ", "", " ".join(str(error).split()))[:200] or type(error).__name__


class MilError(Exception):
    """Base of all errors a user of this package can cause."""


class SettingsError(MilError, ValueError):
    """A setting with a value that makes no sense."""


class LabelsError(MilError, ValueError):
    """A labels table that cannot be trained on."""


class TableError(MilError, ValueError):
    """A table of predictions that cannot be read, or goes with nothing that is asked of it."""


class ModelError(MilError, ValueError):
    """A network that cannot be built or loaded as asked."""


class RunError(MilError, OSError):
    """A run folder that cannot be written or read."""


class Stopped(Exception):
    """A training that was asked to stop and has saved where it stands; nothing is wrong."""


class LaunchError(MilError, RuntimeError):
    """Processes that do not meet, or lose each other."""


class CacheError(MilError, OSError):
    """A cache of tiles that cannot be made or read."""
