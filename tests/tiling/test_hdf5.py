"""What an HDF5 file leads to, claims or hides is refused before it is opened, or takes memory."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tiling.hdf5 import Dataset, reading

NUMBERS = np.arange(6, dtype=np.int64)
PIXELS = h5py.vlen_dtype(np.uint8)


def written(path: Path, **datasets: Any) -> Path:
    """A file of these datasets."""
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


def refusal(path: Path, read: Callable[[Dataset], object] = Dataset.read) -> str:
    """Why the dataset `x` cannot be read."""
    with pytest.raises(ValueError) as caught, reading(path) as file:
        read(file.dataset("x"))
    return str(caught.value)


class TestElsewhere:
    """Nothing of another file is read: the one that is named here would do."""

    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        return written(tmp_path / "other.h5", x=NUMBERS)

    def test_external_link(self, tmp_path: Path, other: Path) -> None:
        path = written(tmp_path / "a.h5", x=h5py.ExternalLink(str(other), "/x"))
        assert refusal(path) == "its x is a link, and links are not followed"

    @pytest.mark.parametrize("target", ["/y", "/nowhere", "/"])
    def test_soft_link(self, tmp_path: Path, target: str) -> None:
        path = written(tmp_path / "a.h5", y=NUMBERS, x=h5py.SoftLink(target))
        assert refusal(path) == "its x is a link, and links are not followed"

    def test_linked_group(self, tmp_path: Path, other: Path) -> None:
        path = written(tmp_path / "a.h5", x=h5py.ExternalLink(str(other), "/"))
        with pytest.raises(ValueError, match="its x is a link"), reading(path) as file:
            file.group("x")

    def test_external_storage(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(bytes(48))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", (6,), np.int64, external=[(str(tmp_path / "secret"), 0, 48)])
        assert refusal(tmp_path / "a.h5") == "its x lies in another file, which is not opened"

    def test_virtual_dataset(self, tmp_path: Path, other: Path) -> None:
        layout = h5py.VirtualLayout((6,), np.int64)
        layout[:] = h5py.VirtualSource(str(other), "x", (6,))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_virtual_dataset("x", layout)
        assert refusal(tmp_path / "a.h5") == "its x lies in another file, which is not opened"

    @pytest.mark.parametrize("name", ["g/x", "/x", ".", "", "g/../x", "x\0y"])
    def test_paths_are_no_names(self, tmp_path: Path, name: str) -> None:
        path = written(tmp_path / "a.h5", **{"x": NUMBERS, "g/x": NUMBERS})
        with pytest.raises(ValueError, match="it has no"), reading(path) as file:
            file.dataset(name)

    def test_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.h5")
        with pytest.raises(ValueError, match="it is no file"), reading(tmp_path / "a.h5"):
            pass


class TestClaims:
    @pytest.mark.parametrize("packing", [None, "gzip"])
    def test_numbers_never_written(self, tmp_path: Path, packing: str | None) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", (10**12,), np.int64, chunks=(1000,), compression=packing)
        expected = "its x of the shape (1000000000000,) would take 8000000000000 bytes, and 0 are there"
        assert refusal(tmp_path / "a.h5") == expected

    def test_size_that_only_the_layout_claims(self, tmp_path: Path) -> None:
        """A damaged layout says that all 8 GB are stored; the file is too short for that."""
        path = written(tmp_path / "a.h5", x=NUMBERS)
        data = path.read_bytes()
        data = data.replace(struct.pack("<Q", 6), struct.pack("<Q", 10**9)).replace(
            struct.pack("<QQ", 2048, 48), struct.pack("<QQ", 2048, 8 * 10**9)
        )
        path.write_bytes(data)
        with pytest.raises((ValueError, KeyError)), reading(path) as file:  # HDF5 2 sees it when it opens the dataset
            file.dataset("x").read()

    def test_chunk_that_holds_more_than_its_size(self, tmp_path: Path) -> None:
        """A megabyte of zeros is a kilobyte: HDF5 would inflate it all, for a chunk of 48 bytes."""
        import zlib

        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", (6,), np.int64, chunks=(6,), compression="gzip")
            file["x"].id.write_direct_chunk((0,), zlib.compress(bytes(10**6)))
        assert refusal(tmp_path / "a.h5") == "a chunk of its x has 56 bytes, or more, in place of 48"

    def test_packed_numbers(self, tmp_path: Path) -> None:
        options = (
            {"compression": "gzip"},
            {"shuffle": True},
            {"fletcher32": True},
            {"compression": "gzip", "shuffle": True},
        )
        for number, packing in enumerate((*options, {**options[3], **options[2]})):
            with h5py.File(tmp_path / f"{number}.h5", "w") as file:
                file.create_dataset("x", data=NUMBERS, chunks=(4,), **packing)
            with reading(tmp_path / f"{number}.h5") as root:
                np.testing.assert_array_equal(root.dataset("x").read(), NUMBERS)

    @pytest.mark.parametrize("data", [b"", b"abc", b"abcd", bytes(40), bytes(47)])
    def test_chunk_that_holds_less_than_its_size(self, tmp_path: Path, data: bytes) -> None:
        """HDF5 2.0 crashes where there are not even the four bytes of a checksum."""
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", (600,), np.int64, chunks=(6,), fletcher32=True)
            file["x"][:] = 1
            file["x"].id.write_direct_chunk((0,), data or b"a")
        assert "in place of 48" in refusal(tmp_path / "a.h5")

    def test_chunk_that_is_larger_packed_than_it_is(self, tmp_path: Path) -> None:
        """A damaged index says gigabytes, for which HDF5 would take the memory before it looks."""
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", (6,), np.int64, chunks=(6,), compression="gzip")
            file["x"].id.write_direct_chunk((0,), bytes(2000))
        assert refusal(tmp_path / "a.h5") == "a chunk of its x takes 2000 bytes packed, and 48 as it is"

    @pytest.mark.parametrize("packing", [{"scaleoffset": 0}, {"compression": "lzf"}])
    def test_packings_whose_sizes_cannot_be_checked(self, tmp_path: Path, packing: dict[str, Any]) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", data=NUMBERS, chunks=(6,), **packing)
        assert (
            refusal(tmp_path / "a.h5") == "its x is packed in a way that is not read; pack it with gzip, or not at all"
        )

    def test_one_picture_many_times(self, tmp_path: Path) -> None:
        """A thousand references to one picture of 100 kB take 16 kB, and would be read as 100 MB."""
        with h5py.File(tmp_path / "a.h5", "w") as file:
            dataset = file.create_dataset("x", (1000,), PIXELS)
            dataset[0] = np.zeros(100_000, np.uint8)
            at = dataset.id.get_offset()
        data = bytearray((tmp_path / "a.h5").read_bytes())
        data[at : at + 16_000] = data[at : at + 16] * 1000
        (tmp_path / "a.h5").write_bytes(data)
        expected = f"its x would take 100000000 bytes, and the file has {len(data)}"
        assert refusal(tmp_path / "a.h5", Dataset.blobs) == expected

    def test_pictures_never_written(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", (10**10,), PIXELS, chunks=(1000,))
        assert refusal(tmp_path / "a.h5", lambda dataset: dataset.rows).endswith(
            "would take 80000000000 bytes, and 0 are there"
        )

    @pytest.mark.parametrize("value", [3, 2.5, "a", np.zeros((2, 2), np.uint8)])
    def test_what_is_no_pictures(self, tmp_path: Path, value: object) -> None:
        path = written(tmp_path / "a.h5", x=value)
        if isinstance(value, str):  # one text is read alike
            with reading(path) as file:
                assert file.dataset("x").blobs() == (b"a",)
        else:
            assert "which are not expected" in refusal(path, Dataset.blobs)


@pytest.mark.parametrize("damaged", [0, 1, 2**64 - 1, 2**63, 4080])
@pytest.mark.parametrize("which", ["text", "free"])
def test_heap_in_which_hdf5_would_search_for_ever(tmp_path: Path, which: str, damaged: int) -> None:
    """See https://github.com/HDFGroup/hdf5/issues/1707."""
    path = written(tmp_path / "a.h5", x="uni")
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    at = heap + 16 if which == "text" else heap + 16 + 16 + 8
    assert struct.unpack_from("<HxxxxxxQ", data, at)[0] == (which == "text")
    struct.pack_into("<Q", data, at + 8, damaged)
    path.write_bytes(data)
    with pytest.raises((ValueError, OSError)), reading(path) as file:
        file.dataset("x").blobs()


def test_place_beyond_the_end_of_any_file(tmp_path: Path) -> None:
    """HDF5 asks for the byte that a damaged superblock leads to, of which Python's files know none."""
    path = written(tmp_path / "a.h5", x=NUMBERS)
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 48, 2**63)  # where the superblock has more said of the driver
    path.write_bytes(data)
    with pytest.raises(ValueError, match="it refers to a place beyond the end of any file"), reading(path):
        pass


class TestAttributes:
    def test_what_they_say(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.attrs.update(text="é", fixed=np.bytes_(b"ab"), number=2.5, whole=np.float32(3), many=[1, 2])
        with reading(tmp_path / "a.h5") as root:
            assert (root.text("text"), root.text("fixed"), root.number("number")) == ("é", "ab", 2.5)
            assert (root.whole("whole", 0, 3), root.within("number", 2.5, 3)) == (3, 2.5)
            assert root.attribute("many").tolist() == [1, 2]
            assert (root.has("text"), root.has("other")) == (True, False)

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            (h5py.Empty("f8"), "its a is no number and no short text"),
            (["x", "y"], "its a is no number and no short text"),
            (np.complex64(1), "its a is no number and no short text"),
            ("abc", "its a is no number"),
            ([1.0], "its a is no number"),
            (np.nan, "its a is nan, expected a whole number from 0 to 9"),
            (np.inf, "its a is inf, expected a whole number from 0 to 9"),
            (2.5, "its a is 2.5, expected a whole number from 0 to 9"),
            (10, "its a is 10, expected a whole number from 0 to 9"),
        ],
    )
    def test_no_whole_numbers(self, tmp_path: Path, value: object, sentence: str) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.attrs["a"] = value
        with pytest.raises(ValueError) as caught, reading(tmp_path / "a.h5") as root:
            root.whole("a", 0, 9)
        assert str(caught.value) == sentence

    def test_texts(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.attrs.update(long="x" * 70_000, zero=np.bytes_(b"a\0b"), number=1)
        with reading(tmp_path / "a.h5") as root:
            with pytest.raises(ValueError, match="its long is a text of 70000 bytes, of 65536 at most"):
                root.text("long")
            with pytest.raises(ValueError, match="its zero has a zero in its text"):
                root.text("zero")
            with pytest.raises(ValueError, match="its number is no text"):
                root.text("number")
            with pytest.raises(ValueError, match="it has no attribute other"):
                root.text("other")
