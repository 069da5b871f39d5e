"""What there is of memory is found wherever a limit stands."""

from pathlib import Path

import pytest
import torch

from mil.room import _left_in_groups, available_bytes, is_out_of_memory

CPU = torch.device("cpu")


def test_here() -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < available_bytes(CPU) <= total


def test_group_of_version_2_and_those_above_it(tmp_path: Path) -> None:
    for folder, limit, used, files in (
        ("", "max", 9000, 0), ("job", "1000", 700, 100), ("job/step", "max", 700, 0),
        ("job/step/task", "900", 950, 0),
    ):  # fmt: skip
        group = tmp_path / folder
        group.mkdir(exist_ok=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 5\ninactive_file {files}\n")
    assert list(_left_in_groups(tmp_path, "0::/job/step\n")) == [400]
    assert list(_left_in_groups(tmp_path, "0::/job/step/task\n")) == [0, 400]


def test_group_of_version_1(tmp_path: Path) -> None:
    group = tmp_path / "memory" / "slurm" / "job_1"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("5000\n")
    (group / "memory.usage_in_bytes").write_text("3000\n")
    (group / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 500\n")
    assert list(_left_in_groups(tmp_path, "5:cpu:/\n4:memory,x:/slurm/job_1\n0::/\n")) == [2500]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_errors_that_say_memory_is_gone(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
