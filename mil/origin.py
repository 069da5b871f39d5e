"""What a table of scores was made with, kept beside it as `TABLE.json`: who goes on with it or merges it must agree."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mil.errors import TableError, cause
from mil.task import Task
from tiling.bag import software
from tiling.documents import read_json
from tiling.output import replacing, written_name
from tiling.settings import restored
from tiling.shards import WHOLE, Shard, parse_shard

FORMAT, FORMAT_VERSION = "gigabag-scores", 1
_DIGITS = 16


@dataclass(frozen=True)
class Slides:
    """How many slides a table is about, all shards together, and a digest of their names; these in any order."""

    count: int
    digest: str


@dataclass(frozen=True)
class Origin:
    """What a table of scores was made with.

    `model` is the digest of what scored, `task` what it predicts, `settings` are those that change a row, `shard` is
    the part of the slides that the table has. `slides` is None where nobody knows which will come.
    """

    model: str
    task: Task
    settings: dict[str, Any]
    slides: Slides | None = None
    shard: Shard = WHOLE


def slides_named(names: Iterable[str]) -> Slides:
    """What is noted of slides with these names."""
    written = sorted(map(written_name, names))
    return Slides(len(written), _digest("\0".join(written).encode()))


def digest_of_file(path: str | None) -> str | None:
    """Names a file by what is in it; None where there is none."""
    return None if path is None else _digest(Path(path).read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def path_beside(table: Path) -> Path:
    """Where the origin of a table is kept."""
    return table.with_name(f"{table.name}.json")


def write_origin(table: Path, origin: Origin) -> None:
    """Write what a table is made with, whole or not at all."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "software": software(), **asdict(origin)}
    content["shard"] = str(origin.shard)
    with replacing(path_beside(table)) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_origin(table: Path) -> Origin:
    """What a table was made with; raises TableError where that is not known."""
    path = path_beside(table)
    try:
        content = read_json(path, finite=True)
        if (found := (content["format"], content["format_version"])) != (FORMAT, FORMAT_VERSION):
            raise TableError(f"{str(path)!r} is {found[0]} version {found[1]}, this program reads version 1")
        return Origin(
            str(content["model"]),
            Task.from_json(content["task"]),
            dict(content["settings"]),
            None if content["slides"] is None else restored(Slides, content["slides"]),
            parse_shard(content["shard"]),
        )
    except FileNotFoundError as error:
        raise TableError(
            f"the table {str(table)!r} has no {path.name!r} beside it, which says what it was made with; put it there, "
            "or score again into another file"
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{str(path)!r} does not say what a table was made with ({cause(error)})") from error


def refuse_other(table: Path, found: Origin, wanted: Origin) -> None:
    """Raise TableError where a table was made with anything else than what is `wanted` of it."""
    names = found.settings.keys() | wanted.settings.keys()
    differs = [
        ("another model", found.model != wanted.model or found.task != wanted.task),
        *((f"another {name}", found.settings.get(name) != wanted.settings.get(name)) for name in sorted(names)),
        ("other slides", WHOLE not in (found.shard, wanted.shard) and found.slides != wanted.slides),
        ("another shard", found.shard != wanted.shard),
    ]
    if what := [name for name, is_other in differs if is_other]:
        raise TableError(
            f"the table {str(table)!r} was made with {', '.join(what)}; give what it was made with, or another --out"
        )


def whole(origin: Origin) -> Origin:
    """The origin of a table that all shards of this one have become."""
    return replace(origin, shard=WHOLE)
