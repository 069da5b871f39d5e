"""`python -m docs.make_cli`: writes docs/cli.md, the reference of all commands, from the code.

A new command is one line in COMMANDS. A test fails where a command is missing here or the page is not current.
"""

import sys
from argparse import Action
from collections.abc import Iterator
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any, Literal, get_args, get_origin

from tiling.output import replacing

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cli.md"
# All commands, as modules with `_parser` and `main`, in the order of the page.
COMMANDS = (
    "tiling.__main__",
    "tiling.status",
    "tiling.reselect",
    "tiling.merge",
    "train",
    "infer",
    "mil.merge",
    "mil.ensemble",
    "mil.pseudo",
    "tiling.synthetic.__main__",
)
_OF_THE_MACHINE = {"workers": "one a processor"}  # defaults that are not the same everywhere
_LEFT_OUT = ("help", "print_config")
_BEGINNING = """\
# Commands

Every setting of every command, as the code has it: `python -m docs.make_cli` writes this page.

Commands with `--config` take their other flags from a YAML file too: its keys are the flags, without the two dashes and
with underscores (`--train-px` is `train_px`), flags win over it, and an unknown key is an error. `--print_config` shows
what would be used. A list is several words on the command line (`--numeric age bmi`) and brackets in YAML
(`numeric: [age, bmi]`). `--help` of each command says the same as this page.

Wrong input is one sentence and status 2; Ctrl-C is status 130.
"""


def main() -> int:
    """Write the page; status 0."""
    with replacing(PAGE) as new:
        new.write_text(page(), encoding="utf-8")
    return 0


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([_BEGINNING, *(section(import_module(name)) for name in COMMANDS)])


def section(module: ModuleType) -> str:
    """A command's part of the page: how it is called, how it ends, and a table of each group of its flags."""
    parser = module._parser()
    usage, _, _ = (module.__doc__ or "").partition("\n")
    installed = {target: script for script, target in _scripts()}.get(f"{module.__name__}:main")
    lines = [f"## {parser.prog}", "", usage, ""]
    if installed:
        lines += [f"`{installed}` is the same, once gigabag is installed.", ""]
    lines += [" ".join((module.main.__doc__ or "").split()), ""]
    # argparse keeps what has no group of its own in its first two, by position and by flag.
    positional, flags, *groups = ((group.title or "", group._group_actions) for group in parser._action_groups)
    for title, actions in [("", positional[1] + flags[1]), *groups]:
        rows = [row(action) for action in actions if action.dest not in _LEFT_OUT]
        lines += [f"**{title.capitalize()}**", ""] if title else []
        lines += ["| flag | takes | default | what it is |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def row(action: Action) -> str:
    """The row of a flag: its names, what it takes, its default, what it is for."""
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.dest.upper()}`"
    cells = names, takes(action), default_of(action), " ".join((action.help or "").split())
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def takes(action: Action) -> str:
    """What a flag is given, in words: nothing, one of some words, a number, text."""
    if action.nargs == 0:
        return ""
    one = in_words(getattr(action, "_typehint", None) or str)
    if isinstance(action.metavar, str) and not action.metavar.startswith("{"):
        one = f"`{action.metavar}`" if one == "text" else f"{one} `{action.metavar}`"
    return {"+": f"{one}, one or more", "*": f"{one}, several or none"}.get(str(action.nargs), one)


def in_words(hint: Any) -> str:
    """A type in words: `int | Literal["all"] | None` is "whole number or `all`"."""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{option}`" for option in get_args(hint))
    if parts := [part for part in get_args(hint) if part is not NoneType]:
        return " or ".join(in_words(part) for part in parts)
    return {int: "whole number", float: "number", str: "text"}[hint]


def default_of(action: Action) -> str:
    """A flag's default, in words where it is none or differs from machine to machine."""
    if action.required:
        return "**needed**"
    if action.dest in _OF_THE_MACHINE:
        return _OF_THE_MACHINE[action.dest]
    value = action.default
    if isinstance(value, bool):
        return {True: "on", False: "off"}[value]
    if isinstance(value, list):
        return " ".join(f"`{each}`" for each in value)
    return "" if value is None else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _scripts() -> Iterator[tuple[str, str]]:
    """The console scripts of setup.cfg, each with the `module:function` it calls."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    for line in setup["options.entry_points"]["console_scripts"].split("\n"):
        if line:
            script, _, target = line.partition(" = ")
            yield script, target


if __name__ == "__main__":
    sys.exit(main())
