"""The page of recipes has a section for each, names each file, and its commands are commands."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").iterdir()), ids=lambda path: path.name)
def test_every_file_has_its_section(path: Path) -> None:
    section = SECTIONS[path.name.partition(".")[0]]
    assert f"`{path.name}`" in section
    assert f"--config configs/{path.name}" in section
    assert all(f"**{word}:**" in section for word in ("What", "From", "Values", "When"))


def test_no_section_is_of_a_recipe_that_is_gone() -> None:
    assert SECTIONS.keys() == {path.name.partition(".")[0] for path in (ROOT / "configs").iterdir()}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to what they would do: every flag and every file of settings is known."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)[1:]
    module, words = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
    import_module({"tiling": "tiling.__main__"}.get(module, module))._parser().parse_args(words)
