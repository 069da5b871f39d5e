"""What can go wrong on the way from a slide to a bag, as exceptions whose text is one helpful sentence."""


class TilingError(Exception):
    """Base of all errors a user of this package can cause."""


class InputError(TilingError, ValueError):
    """Wrong flags, tables or folders: the command ends with status 2 before any work."""


class SlideError(TilingError, OSError):
    """One slide cannot be opened or read; the batch goes on."""


class OutputError(TilingError, OSError):
    """Nothing more can be written: the batch ends with status 2, and a later one goes on where it stopped."""


class BagError(TilingError, ValueError):
    """One file is not a complete bag of a version that this program reads."""
