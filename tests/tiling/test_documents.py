"""JSON and YAML are plain values of plain size, or a ValueError that says what is wrong."""

import os
from pathlib import Path

import pytest

from tiling import documents
from tiling.documents import parse_json, read_json, read_yaml


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json(tmp_path: Path) -> None:
    assert read_json(written(tmp_path, '\ufeff{"a": [1, 2.5, null, true, "µ"]}')) == {"a": [1, 2.5, None, True, "µ"]}
    assert parse_json("9" * 40) == int("9" * 40)
    assert parse_json("[" * 50 + "]" * 50) != []
    assert parse_json("[NaN, -Infinity]")[1] == -float("inf")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 100_000, "it is nested too deeply"),
        ("9" * 41, "it has a number of 41 digits"),
        ("[-" + "9" * 100_000 + "]", "it has a number of 100001 digits"),
        ("[NaN]", "it has NaN in place of a number"),
        ('{"a": -Infinity}', "it has -Infinity in place of a number"),
        ("", "Expecting value"),
        (b"\xff\xfe[\0]\0", "codec can't decode"),
    ],
)
def test_strange_json(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_json(written(tmp_path, text), finite=True)


def test_sizes(tmp_path: Path) -> None:
    path = written(tmp_path, "[" + " " * 2046 + "]")
    assert read_json(path, 2048) == []
    with pytest.raises(ValueError, match="it is larger than 1 KiB"):
        read_json(path, 2047)
    with pytest.raises(ValueError, match="it is larger than 256 KiB"):
        read_yaml(written(tmp_path, "#" * (documents.MOST_YAML_BYTES + 1)))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        for read in (read_json, read_yaml):
            with pytest.raises(ValueError, match="it is no regular file"):
                read(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing")


def test_yaml(tmp_path: Path) -> None:
    text = "a: [1, 0x10, 2.5, .inf, null, true, 'b']\ndigest: " + "3a" * 32 + "\n"
    found = read_yaml(written(tmp_path, text))
    assert found == {"a": [1, 16, 2.5, float("inf"), None, True, "b"], "digest": "3a" * 32}
    assert read_yaml(written(tmp_path, "a: '" + "9" * 100 + "'")) == {"a": "9" * 100}
    assert read_yaml(written(tmp_path, "# nothing\n")) is None


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{two}: &{two} [{', '.join([f'*{one}'] * 9)}]\n" for one, two in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB, r"it has the alias \*a; write out what it stands for"),
        ("a: &a [*a]\n", r"it has the alias \*a"),
        ("[" * 1000, "it is nested too deeply"),
        ("a: " + "[" * 1000 + "]" * 1000, "it is nested too deeply"),
        ("".join("  " * depth + "a:\n" for depth in range(100)), "it is nested too deeply"),
        ("a: " + "9" * 5000, "it has a number of 5000 digits"),
        ("a: 0x" + "f" * 100_000, "it has a number of 100002 digits"),
        ("a: 1" + ":1" * 50_000, "it has a number of 100001 digits"),
        ("a: !!python/object/apply:os.system [id]", "it has the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !!binary AAAA", "it has the tag tag:yaml.org,2002:binary; leave it out"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("a: \0", "control characters are not allowed"),
        ("a: 1\n---\nb: 1\n", "expected a single document"),
        ("? [a]\n: 1\n", "unhashable key"),
        (b"a: \xff", "codec can't decode"),
    ],
)
def test_strange_yaml(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_yaml(written(tmp_path, text))
