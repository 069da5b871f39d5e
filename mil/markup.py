"""HTML from the templates in mil/templates: all text escaped, files written whole, names that are safe on any disk."""

import hashlib
import math
import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tiling.bag import software
from tiling.errors import InputError
from tiling.output import make_writable, replacing, written_name

NONE = "–"  # stands where there is no value
_GENERATOR = '<meta name="generator" content="gigabag'  # templates/base.html has it in its first lines
_ASSETS = ("report.css", "report.js")
_LONGEST_NAME = 60


def open_folder(folder: Path) -> None:
    """Make the folder of a report, with its style sheet and its script.

    Raises InputError where nothing can be written, or where its index.html is a page of another program.
    """
    index = folder / "index.html"
    if index.exists() and _GENERATOR not in index.read_text(encoding="utf-8", errors="replace")[:1000]:
        raise InputError(f"{str(index)!r} is a page that gigabag did not write; choose another folder for the report")
    make_writable(folder)
    loader = _environment().loader
    assert loader is not None, "the environment has the package's templates"
    for name in _ASSETS:
        write(folder / name, loader.get_source(_environment(), name)[0])


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page, whole or not at all; every value is escaped."""
    write(path, _environment().get_template(template).render(**values, software=software()))


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; one that holds the same already is left as it is."""
    data = content if isinstance(content, bytes) else content.encode("utf-8")
    if path.exists() and path.read_bytes() == data:
        return
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def file_name(slide_id: str) -> str:
    """A name for the files of a slide: letters, digits and `-._` alone, another one for every slide_id.

    It begins as the slide_id does and ends with 64 bits of its SHA-256, so that names which differ in their case, or
    in what is left out, do not meet on a disk that holds them equal.
    """
    plain = unicodedata.normalize("NFKD", slide_id).encode("ascii", "ignore").decode()
    start = re.sub(r"[^A-Za-z0-9_]+", "-", plain)[:_LONGEST_NAME].strip("-")
    digest = hashlib.sha256(slide_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{start}-{digest}" if start else digest


def number(value: Any, digits: int = 3) -> str:
    """A figure for a reader, a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return NONE
    return f"{value:.{digits}f}"


def grouped(value: Any) -> str:
    """A count with narrow spaces between its thousands; what is no count as it is."""
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else str(value)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("mil", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, finalize=_visible,
    )  # fmt: skip
    made.filters |= {"number": number, "grouped": grouped}
    return made


def _visible(value: Any) -> Any:
    """Text as UTF-8 can have it, without what moves a terminal or a parser; other values as they are."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", written_name(value))
