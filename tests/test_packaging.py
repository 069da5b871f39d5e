"""What others install from: the Dockerfile copies what setup.cfg names, the workflows run what is there."""

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
STAGES = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def copied(stage: str) -> set[str]:
    """What a stage takes from this folder."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", stage, re.MULTILINE)
    return {name for line in lines for name in line.split()[:-1]}


def workflow(name: str) -> dict[Any, Any]:
    found = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


class TestDockerfile:
    def test_what_is_copied_is_there_and_not_ignored(self) -> None:
        ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        assert "*" in ignore
        for name in copied(STAGES[0]) | copied(STAGES[1]):
            assert (ROOT / name).exists(), name
            assert f"!{name}" in ignore, name

    def test_all_that_is_installed_is_copied(self) -> None:
        options = SETUP["options"]
        packages = {name.strip().partition(".")[0] for name in options["packages"].split(",")}
        modules = {f"{name.strip()}.py" for name in options["py_modules"].split(",")}
        files = {name.partition("/")[0] for name in SETUP["options.data_files"]["share/gigabag/configs"].split()}
        read = {SETUP["metadata"]["long_description"].removeprefix("file: "), SETUP["metadata"]["license_files"]}
        assert copied(STAGES[0]) == {"setup.cfg", "pyproject.toml", *packages, *modules, *files, *read}
        assert copied(STAGES[1]) == {*modules, *files, SETUP["metadata"]["license_files"]}

    def test_pytorch_is_the_one_that_is_asked_for(self) -> None:
        wanted = [line for line in SETUP["options"]["install_requires"].split() if line.startswith("torch")]
        assert re.findall(r'"(torch\S*)"', STAGES[0]) == wanted

    def test_it_runs_as_nobody_of_importance(self) -> None:
        assert re.findall(r"^USER (.+)$", STAGES[1], re.MULTILINE) == ["1000:1000"]


class TestWorkflows:
    def test_make_test_on_each_python_from_the_oldest(self) -> None:
        job = workflow("test.yml")["jobs"]["test"]
        assert job["steps"][-1] == {"run": "make test PYTHON=python"}
        oldest = SETUP["options"]["python_requires"].removeprefix(">=")
        assert job["strategy"]["matrix"]["python"][0] == oldest

    @pytest.mark.parametrize("name", ["test.yml", "package.yml"])
    def test_they_may_read_and_know_no_secret(self, name: str) -> None:
        assert workflow(name)["permissions"] == {"contents": "read"}
        assert "secrets" not in (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
