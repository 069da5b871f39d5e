"""Which names may become names of files."""

import os


def is_plain(name: str) -> bool:
    """Whether a name can be that of a file in any folder: it leads nowhere else."""
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:  # half a character that no file's name gives
        return False
    return data not in (b"", b".", b"..") and b"/" not in data and b"\0" not in data
