"""The reference of the commands is that of the code, and has all of them."""

from argparse import Action
from importlib import import_module
from typing import Any, Literal

import pytest
from jsonargparse import ArgumentParser

from docs import make_cli
from tests.test_structure import MODULES
from tiling import cli


def test_page_is_current() -> None:
    assert make_cli.page() == make_cli.PAGE.read_text(encoding="utf-8"), "run `python -m docs.make_cli`"


def test_every_command_is_there() -> None:
    """A command is a module of ours that makes a parser."""
    assert sorted(make_cli.COMMANDS) == sorted(
        name for name, path in MODULES.items() if "\ndef _parser() " in path.read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("name", make_cli.COMMANDS)
def test_every_flag_is_there(name: str) -> None:
    module = import_module(name)
    section = make_cli.section(module)
    flags = {flag for action in module._parser()._actions for flag in action.option_strings}
    assert {flag for flag in flags if f"`{flag}`" not in section} == {"-h", "--help"} | ({"--print_config"} & flags)


def one(*names: str, **given: Any) -> Action:
    parser = ArgumentParser()
    return parser.add_argument(*names, **given)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (one("--out", required=True, help="a\n   file"), "| `--out` | text | **needed** | a file |"),
        (one("--run", metavar="RUN", help="|"), r"| `--run` | `RUN` |  | \| |"),
        (one("slides", nargs="+", help="them"), "| `SLIDES` | text, one or more | **needed** | them |"),
        (one("--lr", type=float, default=1e-6, help=""), "| `--lr` | number | `1e-06` |  |"),
        (one("--lr", type=float | None, metavar="X", help=""), "| `--lr` | number `X` |  |  |"),
        (one("--fold", type=int | Literal["all"] | None, help=""), "| `--fold` | whole number or `all` |  |  |"),
        (one("--kind", type=Literal["a", "b"], default="a", help=""), "| `--kind` | `a`, `b` | `a` |  |"),
        (one("--all", action="store_true", help=""), "| `--all` |  | off |  |"),
        (one("--n", nargs="*", type=str, default=["a", "b"]), "| `--n` | text, several or none | `a` `b` |  |"),
    ],
)  # fmt: skip
def test_row(action: Action, expected: str) -> None:
    assert make_cli.row(action) == expected


def test_default_of_the_machine_is_not_written() -> None:
    parser = cli.make_parser("test", "")
    cli.add_workers(parser, "work")
    action = parser._option_string_actions["--workers"]
    assert make_cli.row(action) == "| `--workers` | whole number | one a processor | processes that work |"
