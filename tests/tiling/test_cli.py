"""Files of settings are plain values for the flags there are; sentences stay on their line."""

from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentParser, Namespace

from tiling import cli
from tiling.errors import InputError

seen: list[Namespace] = []


def parser() -> ArgumentParser:
    made = cli.make_parser("try", "Try.")
    made.add_argument("--out")
    made.add_argument("--runs", nargs="+")
    made.add_argument("--resume", action="store_true")
    made.add_argument("--many", type=int, default=1)
    made.add_argument("--kind", type=Literal["a", "b"] | None)
    cli.add_config(made)
    return made


def work(args: Namespace) -> int:
    seen.append(args)
    return cli.OK


def test_settings_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("out: x\nruns: [a, b]\nresume: true\nmany: 3\nkind: b\n")
    assert cli.run(parser, work, ["--config", str(tmp_path / "c.yaml"), "--many", "4"]) == 0
    found = seen.pop()
    assert (found.out, found.runs, found.resume, found.many, found.kind) == ("x", ["a", "b"], True, 4, "b")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("config: other.yaml\n", "has 'config' in it, which only the command line has; leave it out"),
        (
            "a: &a [x, x]\nb: [*a, *a]\n",
            "is no YAML file of settings: it has the alias *a; write out what it stands for",
        ),
        ("many: !!python/name:os.system x\n", "it has the tag tag:yaml.org,2002:python/name:os.system; leave it out"),
        ("", "give a line `name: value` for each"),
        ("- many\n", "give a line `name: value` for each"),
        ("1: 2\n", "give a line `name: value` for each"),
        ("out: 3\n", "--out in 'c.yaml' cannot be 3; see --help"),
        ("out: {a: b}\n", "--out in 'c.yaml' cannot be {'a': 'b'}; see --help"),
        ("runs: a\n", "--runs in 'c.yaml' cannot be a; see --help"),
        ("runs: [1]\n", "--runs in 'c.yaml' cannot be [1]; see --help"),
        ("resume: maybe\n", "--resume in 'c.yaml' cannot be maybe; see --help"),
        ("many: 1.5\n", "--many '1.5' is not a whole number"),
        ('"a\\e[2Jb": 1\n', r"option 'a\x1b[2Jb' is not accepted in 'c.yaml'"),
        (f"out: [{'x' * 500}]\n", "xxx…xxx"),
    ],
)
def test_strange_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text("many: 2\n")
    Path("c.yaml").write_text(text)
    assert cli.run(parser, work, ["--config", "c.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("try: error: ")
    assert sentence in said
    assert said[:-1].isprintable()
    assert not seen


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(parser, work, ["--config", "c.yaml"]) == 2
    assert capsys.readouterr().err == "try: error: 'c.yaml' is no YAML file of settings: No such file or directory\n"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("a\nb\x1b[31m\u202e", r"a\nb\x1b[31m\u202e"),
        ("Caught InputError in worker 0.\nTraceback …\n  line\nInputError: what it is", "InputError: what it is"),
        ("x" * 5000, "x" * 2000 + "…" + "x" * 1999),
    ],
)
def test_a_sentence_is_one_line(capsys: pytest.CaptureFixture[str], message: str, said: str) -> None:
    def fails(_: Namespace) -> int:
        raise InputError(message)

    assert cli.run(parser, fails, []) == 2
    assert capsys.readouterr().err == f"try: error: {said}\n"
