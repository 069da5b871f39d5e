"""Who may import whom: scripts -> mil -> tiling, leaves import no sibling, one library behind one module."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in ("tiling", "mil")
    for path in (ROOT / folder).rglob("*.py")
} | {name: ROOT / f"{name}.py" for name in ("train", "infer")}
ONLY_IMPORTED_BY = {
    "openslide": {"tiling.slide"}, "pyvips": {"tiling.slide"}, "tifffile": {"tiling.tiff"},
    "h5py": {"tiling.hdf5"}, "timm": {"mil.backbone", "mil.weights", "mil.optim", "mil.schedule"},
    "wandb": {"mil.trackers"}, "mlflow": {"mil.trackers"}, "tensorboard": {"mil.trackers"},
    "contourpy": {"mil.shapes"}, "pyarrow": {"mil.parquet"}, "lightning_fabric": {"mil.launch", "mil.launcher"},
    "jinja2": {"mil.markup"}, "markupsafe": {"mil.markup"},
    "dask": {"tiling.cluster"}, "dask_jobqueue": {"tiling.cluster"}, "distributed": {"tiling.cluster"},
}  # fmt: skip
LEAVES = {f"tiling.{name}" for name in "cells codec names rank resample sketch tiff tissue".split()} | {
    f"mil.{name}"
    for name in (
        "alexnet arrangement averaging chunks colours depth head layout luminosity metrics overlay pooling room task "
        "tint warp".split()
    )
}
MIL_MAY_USE = {
    f"tiling.{name}"
    for name in (
        "bag bags batch cells documents errors features manifest output overview pick pixels progress ready settings "
        "shards sheets slide sources tile tissue todo".split()
    )
}

COMMANDS_OF_MIL = {"mil.ensemble", "mil.merge", "mil.pseudo", "mil.score_all"}  # which have flags, or are told to stop

# A ChipNet picks tiles: its own package knows how, and is imported inside the function that needs it.
ONLY_WHEN_ASKED = {"tiling.picker": {"mil.errors", "mil.errors.MilError", "mil.picking", "mil.picking.load_picker"}}


def imports(path: Path, at_import_time: bool = False) -> set[str]:
    """Full names of the modules a file imports; those inside functions are left out `at_import_time`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_import_time else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("name", MODULES)
def test_arrows_run_one_way(name: str) -> None:
    used = imports(MODULES[name])
    ours = used & MODULES.keys()
    if name.startswith("tiling"):
        late = used - imports(MODULES[name], at_import_time=True)
        allowed = late & ONLY_WHEN_ASKED.get(name, set())
        assert not {each for each in used - allowed if each.split(".")[0] in {"mil", "torch", "train", "infer"}}
    if name.startswith("mil"):
        assert not ours & {"train", "infer"}
        assert {module for module in ours if module.startswith("tiling")} <= MIL_MAY_USE | (
            {"tiling.cli"} if name in COMMANDS_OF_MIL else set()
        )
    if name in LEAVES:
        assert ours <= {f"{name.partition('.')[0]}.errors"}
    for library, owners in ONLY_IMPORTED_BY.items():
        if library in {module.split(".")[0] for module in used}:
            assert name in owners, f"only {', '.join(sorted(owners))} imports {library}"


def test_no_cycles() -> None:
    graph = {name: imports(path) & MODULES.keys() for name, path in MODULES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", ["tiling", "tiling/synthetic", "mil"])
def test_package_is_only_a_docstring(name: str) -> None:
    tree = ast.parse((ROOT / name / "__init__.py").read_text())
    assert len(tree.body) == 1
    assert ast.get_docstring(tree)


@pytest.mark.parametrize(
    "module",
    [
        "tiling.__main__",
        "tiling.status",
        "tiling.reselect",
        "tiling.cluster",
        "train",
        "infer",
        "mil.ensemble",
        "mil.settings",
        "mil.labels",
    ],
)
def test_command_lines_load_neither_torch_nor_dask(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'dask', 'distributed'}} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
