"""Command lines made from settings dataclasses: flags and YAML keys are their fields, wrong input is one sentence."""

import itertools
import math
import os
import re
import signal
import sys
from argparse import Action, ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import ActionConfigFile, ActionYesNo, ArgumentParser, Namespace

from tiling.documents import read_yaml
from tiling.errors import InputError, TilingError
from tiling.progress import short
from tiling.settings import is_mpp, with_tuples

Settings = TypeVar("Settings")
_WARNINGS = (signal.SIGTERM, signal.SIGUSR1)

_LONGEST = 4000  # of a sentence, in which a name may be longer than any screen
OK, SOME_FAILED, WRONG_INPUT, STOPPED, INTERRUPTED = 0, 1, 2, 75, 130  # 75 is EX_TEMPFAIL: run it again


def make_parser(command: str, description: str) -> ArgumentParser:
    """An empty parser whose errors are raised, so that `run` can word them.

    It calls itself `command`, or by the name of the console script it was started as.
    """
    started_as = Path(sys.argv[0]).name
    prog = started_as if started_as.startswith("gigabag-") else command
    return ArgumentParser(prog=prog, description=description, exit_on_error=False, allow_abbrev=False)


class _ConfigFile(ActionConfigFile):
    """`--config` that looks at a file before it is taken in: plain settings, of which none leads to another file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        path = Path(str(values))
        try:
            found = read_yaml(path)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise InputError(f"{str(path)!r} is no YAML file of settings: {why}") from error
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise InputError(f"{str(path)!r} is no YAML file of settings: give a line `name: value` for each")
        if self.dest in found:
            raise InputError(f"{str(path)!r} has {self.dest!r} in it, which only the command line has; leave it out")
        for action in parser._actions:
            if action.dest in found and not _may_be(action, found[action.dest]):
                flag = f"--{action.dest.replace('_', '-')}"
                raise InputError(f"{flag} in {str(path)!r} cannot be {short(found[action.dest], 80)}; see --help")
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


def _may_be(action: Action, value: Any) -> bool:
    """Whether YAML can give an argument this value, where nothing else looks at it: text, texts, or true and false."""
    if action.type is not None or type(action).__module__ != "argparse":
        return True
    if action.nargs == 0:
        return isinstance(value, bool)
    if action.nargs is not None:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return isinstance(value, str | None)


def add_config(parser: ArgumentParser) -> None:
    """Add `--config FILE`: YAML that gives defaults; flags win."""
    parser.add_argument("--config", action=_ConfigFile, help="YAML file with settings; flags win over it")


def add_settings(parser: ArgumentParser, settings: type, title: str) -> None:
    """Add a flag for every field of a settings dataclass: `longest_edge` becomes `--longest-edge`."""
    group = parser.add_argument_group(title)
    hints = get_type_hints(settings)
    for field in fields(settings):
        flag, hint = "--" + field.name.replace("_", "-"), hints[field.name]
        kind: dict[str, Any] = {"type": hint}
        if hint is bool:
            kind = {"action": ActionYesNo(yes_prefix="", no_prefix="no-")}
        elif get_origin(hint) is tuple:
            kind = {"type": get_args(hint)[0], "nargs": "*"}
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        group.add_argument(flag, default=default, help=field.metadata["help"], **kind)


def add_workers(parser: ArgumentParser, what: str) -> None:
    """Add `--workers N`, by default one for each processor this process may use."""
    parser.add_argument("--workers", type=int, default=available_cpus(), help=f"processes that {what}")


def count_from(args: Namespace, name: str) -> int:
    """A number of things, such as `workers`; raises InputError for less than one."""
    if args[name] < 1:
        raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {args[name]}")
    return int(args[name])


def add_default_mpp(parser: ArgumentParser) -> None:
    """Add `--default-mpp UM`."""
    parser.add_argument(
        "--default-mpp",
        type=float,
        metavar="UM",
        help="micrometres per pixel of slides for which neither a table nor the file says it",
    )


def default_mpp_from(args: Namespace) -> float | None:
    """The mpp of slides that say none; raises InputError where it cannot be one."""
    mpp: float | None = args.default_mpp
    if mpp is not None and not is_mpp(mpp):
        raise InputError(f"--default-mpp must be micrometres per pixel, such as 0.25, not {mpp:g}")
    return mpp


def add_time_limit(parser: ArgumentParser) -> None:
    """Add `--time-limit SECONDS`."""
    from tiling.workers import TIME_LIMIT_S

    parser.add_argument(
        "--time-limit", type=float, default=TIME_LIMIT_S, help="seconds after which a slide is given up as failed"
    )


def time_limit_from(args: Namespace) -> float:
    """The seconds a slide may take; raises InputError where that is no time."""
    if not 0 < args.time_limit < math.inf:
        raise InputError(f"--time-limit must be more than 0 seconds, not {args.time_limit:g}")
    return float(args.time_limit)


def settings_from(args: Namespace, settings: type[Settings]) -> Settings:
    """The settings dataclass filled from parsed arguments."""
    return settings(**with_tuples({field.name: args[field.name] for field in fields(settings)}))  # type: ignore[arg-type]


def run(
    make: Callable[[], ArgumentParser],
    work: Callable[[Namespace], int],
    argv: list[str] | None,
    errors: tuple[type[Exception], ...] = (TilingError,),
) -> int:
    """Parse `argv` (the process's own if None), do the work and give its exit status.

    What a user can cause, a wrong flag or one of `errors`, is one sentence on stderr and status 2.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = make()
    try:
        return work(parser.parse_args(_configs_first(argv)))
    except ArgumentError as error:
        return _complain(parser, explain(str(error), argv))
    except errors as error:
        return _complain(parser, _sentence(error))
    except OSError as error:
        return _complain(parser, f"{error.filename or 'a file'!r}: {error.strerror or error}; check path and disk")
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """A block that SIGTERM, sent by queueing systems before they kill, ends as Ctrl-C does: what is done is saved."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def on_warning(tell: Callable[[], None]) -> Iterator[None]:
    """A block in which SIGTERM and SIGUSR1, by which queueing systems warn, call `tell`.

    Behind it they do nothing if one of them came: Slurm may warn again while the process leaves.
    """
    came: list[int] = []

    def warned(number: int, _: object) -> None:
        came.append(number)
        tell()

    before = {each: signal.signal(each, warned) for each in _WARNINGS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, signal.SIG_IGN if came else handler)


def explain(message: str, argv: list[str]) -> str:
    """One sentence from a message of jsonargparse, which may run over many lines."""
    if "does not support item assignment" in message or "is not iterable" in message:
        return f"{_config_of(argv)!r} gives one value to a setting that is a list; put it in brackets, such as [a, b]"
    key = re.match(r'Parser key "([\w.]+)"(?: element \d+)?:\s*(.*)', message, re.DOTALL)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    if message.startswith("Option "):
        return f"{message[0].lower()}{message[1:]} in {_config_of(argv)!r}; see --help for the settings there are"
    if message.startswith("Problems parsing config"):
        return f"{_config_of(argv)!r} is no YAML file of settings: {' '.join(message.split(':', 1)[1].split())}"
    if key is None:
        return " ".join(message.split())
    if value is None:
        return f"--{key[1]}: {' '.join(key[2].split())}"
    expected = re.findall(r"Expected a (.*?)(?:\. Got value.*)?$", message, re.MULTILINE)
    wanted = " or ".join(_plain_type(text) for text in expected)
    return f"--{key[1].replace('_', '-')} {value[1]!r} is not {wanted}"


def available_cpus() -> int:
    """The processors this process may use (a cluster's job may use fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _configs_first(argv: list[str]) -> list[str]:
    """The words with each `--config` in front: the parser lets the last one win, and that is to be a flag."""
    end = argv.index("--") if "--" in argv else len(argv)
    starts = [index for index, word in enumerate(argv[:end]) if word == "--config" or word.startswith("--config=")]
    moved = {index + more for index in starts for more in range(1 + (argv[index] == "--config"))}
    return [argv[index] for index in sorted(range(len(argv)), key=lambda index: index not in moved)]


def _plain_type(text: str) -> str:
    if options := re.search(r"Literal\[(.*)\]", text):
        return "one of " + options[1].replace("'", "")
    name = re.sub(r"<class '(.*)'>", r"\1", text)
    plain = {"int": "a whole number", "float": "a number", "NoneType": "null", "bool": "true or false"}
    return {**plain, "str": "text (put it in quotes)"}.get(name, name)


def _config_of(argv: list[str]) -> str:
    given = [after for flag, after in itertools.pairwise(argv) if flag == "--config"]
    given += [arg.partition("=")[2] for arg in argv if arg.startswith("--config=")]
    return given[-1] if given else "the configuration"


def _sentence(error: Exception) -> str:
    """What an error says; a loader's worker sends its traceback along, with the sentence in the last line."""
    text = str(error).strip()
    return text.rpartition("\n")[2] if text.startswith("Caught ") else text


def _complain(parser: ArgumentParser, sentence: str) -> int:
    print(f"{parser.prog}: error: {short(sentence, _LONGEST)}", file=sys.stderr)
    return WRONG_INPUT
