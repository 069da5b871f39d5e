"""JSON and YAML of whoever wrote them, as plain values; what takes more memory or time than it looks is refused."""

import json
import stat
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 2**22  # of a file of JSON, unless said otherwise
MOST_YAML_BYTES = 2**18  # its parser is slow, and settings are few
_MOST_DIGITS = 40  # of a whole number: those of 128 bits have 39, and arithmetic on millions of digits takes for ever
_DEEPEST = 50

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_json(path: Path, most_bytes: int = MOST_BYTES, finite: bool = False) -> Any:
    """What a file of JSON says; with `finite` without NaN and infinite numbers.

    Raises OSError or ValueError where it cannot be read, is larger than `most_bytes`, or is no JSON of plain size.
    """
    return parse_json(read_text_of(path, most_bytes), finite)


def parse_json(text: str, finite: bool = False) -> Any:
    """What JSON says; raises ValueError where it is none, is nested too deeply or has numbers of too many digits."""
    try:
        return json.loads(text, parse_int=_whole, parse_constant=_refused if finite else None)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_yaml(path: Path) -> Any:
    """What a file of YAML says: as `read_json`, with a limit of its own, and without aliases and tags.

    An alias repeats what stands elsewhere, and a few lines of aliases to aliases are more than memory holds.
    """
    text = read_text_of(path, MOST_YAML_BYTES)
    try:
        _refuse_wild(text)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ArithmeticError, RecursionError, TypeError, AttributeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def read_text_of(path: Path, most_bytes: int) -> str:
    """The text of a regular file in UTF-8 without the mark at its beginning.

    Raises OSError or ValueError where it is none, or larger than `most_bytes`.
    """
    return read_bytes_of(path, most_bytes).decode("utf-8-sig")


def read_bytes_of(path: Path, most_bytes: int) -> bytes:
    """The bytes of a regular file; raises OSError or ValueError where it is none, or larger than `most_bytes`."""
    with regular(path).open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes // 1024} KiB")
    return content


def regular(path: Path) -> Path:
    """The path of a regular file, or of a link to one; raises OSError or ValueError where it is none.

    What is no regular file may never end, or wait for ever for someone who writes into it.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    return path


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _refused(word: str) -> Any:
    raise ValueError(f"it has {word} in place of a number")


def _refuse_wild(text: str) -> None:
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has the alias *{event.anchor}; write out what it stands for")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"it has the tag {event.tag}; leave it out")
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and len(event.value) > _MOST_DIGITS:
            resolvers = _Loader.yaml_implicit_resolvers.get(event.value[0], ())
            if any(tag.endswith((":int", ":float")) and match.match(event.value) for tag, match in resolvers):
                raise ValueError(f"it has a number of {len(event.value)} digits")
