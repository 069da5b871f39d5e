"""How a setting is declared: once, as a field of the frozen dataclass beside the code that uses it."""

import math
from dataclasses import field, fields
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")
_LONGEST = 80  # of a value in a sentence


class Range(NamedTuple):
    """The values that a numeric setting may have, both ends included."""

    least: float
    most: float | None = None

    def __str__(self) -> str:
        return f"at least {self.least}" if self.most is None else f"from {self.least} to {self.most}"


def setting(default: Any, help: str) -> Any:
    """A field of a settings dataclass, with the words that explain it on the command line."""
    return field(default=default, metadata={"help": help})


def is_mpp(value: float) -> bool:
    """Whether a number can be µm per pixel."""
    return 0 < value < 1000


def with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """The values of settings as their dataclasses hold them: JSON and YAML know lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def restored(settings: type[Settings], values: Any) -> Settings:
    """Settings from what JSON says of them; raises ValueError for what has another name or type than they have."""
    if not isinstance(values, dict):
        raise ValueError(f"{_some(values)} in place of settings")
    hints = get_type_hints(settings)
    names = {field.name for field in fields(settings)}  # type: ignore[arg-type]
    if unknown := [name for name in values if name not in names]:
        raise ValueError(f"there is no setting {_some(unknown[0])}")
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{name} cannot be {_some(value)}")
    return settings(**with_tuples(values))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a type: a whole number is a fraction too, and a list a tuple."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return any(value == each and type(value) is type(each) for each in parts)
    if kind is tuple:
        return isinstance(value, list) and all(_fits(each, parts[0]) for each in value)
    if parts:
        return any(_fits(value, part) for part in parts)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _some(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def at_least(least: float) -> Range:
    """The range without an upper end."""
    return Range(least)


def between(least: float, most: float) -> Range:
    """The range from `least` to `most`."""
    return Range(least, most)


def check(settings: Any, error: type[Exception], **ranges: Range) -> None:
    """Raise `error` for a number out of its range, a choice that is none of its options, or None for a needed value."""
    hints = get_type_hints(type(settings))
    for each in fields(settings):
        name, value = each.name, getattr(settings, each.name)
        flag = "--" + name.replace("_", "-")
        options = _options(hints[name])
        # Beside a number or nothing (int | Literal["all"] | None) the options are the words there are.
        if options and (get_origin(hints[name]) is Literal or isinstance(value, str)) and value not in options:
            raise error(f"{flag} is one of {', '.join(map(str, options))}, not {value!r}")
        if value is None:
            if type(None) not in get_args(hints[name]):
                raise error(f"{flag} needs a value, not null")
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise error(f"{flag} must be a finite number, not {value!r}")
        if name not in ranges:
            continue
        allowed = ranges[name]
        if not value >= allowed.least or (allowed.most is not None and value > allowed.most):
            raise error(f"{flag} must be {allowed}, not {value!r}")


def _options(hint: Any) -> tuple[Any, ...]:
    """What a setting of this type may be, as far as its type lists it."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(option for part in get_args(hint) for option in _options(part))
