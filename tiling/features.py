"""Bags of features: what CLAM, TRIDENT and STAMP write of a slide, an HDF5 file with a vector for every tile.

CLAM (`extract_features_fp.py`) and TRIDENT (`WSI.extract_patch_features`) write `features` (N, C) and `coords` (N, 2),
the upper left corners in level-0 pixels; TRIDENT adds attributes to both. STAMP (`stamp preprocess`) writes `feats`
(N, C) and `coords` in µm, with its attributes on the file. docs/format.md lists what is read of each.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from tiling.bag import FORMAT, MERGED_FORMAT, SUFFIX, BagRef, open_hdf5
from tiling.errors import BagError
from tiling.hdf5 import Dataset, Group, create_hdf5

FEATURES = "features"  # the setting of a spec that says how many an instance has, and that there are any
_NAMES = ("features", "feats")  # the latter is STAMP's
_ENCODERS = ("encoder", "model_name", "extractor")
_SCALE = ("patch_size", "target_magnification")  # TRIDENT: pixels, and the objective to which the slide was reduced
_SCALE_UM = ("tile_size_um", "tile_size_px")  # STAMP
_REMEDY = "delete it and extract the features of its slide again"
_ATTRIBUTES = (*_ENCODERS, *_SCALE, *_SCALE_UM, "savetodir", "patch_size_level0", "downsample")
_MOST_SCALE = 1e9
_MOST_COORDINATE = 2.0**40  # level-0 pixels; what is larger is no place on a slide
_MOST_TEXT = 1000  # characters of an encoder's name


@dataclass(frozen=True)
class FeatureHeader:
    """What a feature file says of itself without its values being read.

    `spec` is what must be equal in all files of a training, as JSON holds it: `features` (the number of channels),
    `encoder` (None where the file does not say), and where the file says them the side and scale of the patches.
    """

    slide_id: str
    instances: int
    channels: int
    spec: dict[str, Any]

    @property
    def made(self) -> dict[str, Any]:
        """What files that are used together must share: the spec."""
        return self.spec


@dataclass(frozen=True)
class FeatureBag:
    """The features of one slide: `features_NC` float32, all finite, in the order of the file.

    `coords_N2` int64 are x and y of the patches' upper left corners in level-0 pixels, None where the file has none
    in that frame; `side0_px` is their side in level-0 pixels, None where the file does not say.
    """

    header: FeatureHeader
    features_NC: np.ndarray
    coords_N2: np.ndarray | None
    side0_px: float | None

    def __len__(self) -> int:
        return self.header.instances


def is_features(ref: BagRef) -> bool:
    """Whether the HDF5 file at `ref` holds features and is no bag of ours; BagError where it cannot be opened."""
    with open_hdf5(ref, "HDF5 file", "delete it and make it again") as file:
        return not _is_ours(file) and _name(file) is not None


def read_feature_header(ref: BagRef) -> FeatureHeader:
    """What a feature file says of itself; BagError where it is none or cannot be used."""
    with open_hdf5(ref, "feature file", _REMEDY) as file:
        return _header(file, ref)


def read_features(ref: BagRef) -> FeatureBag:
    """The features of a slide; BagError where they are damaged, empty or not all finite."""
    with open_hdf5(ref, "feature file", _REMEDY) as file:
        header = _header(file, ref)
        features_NC = _values(_features(file, ref))
        broken = ~np.isfinite(features_NC).all(axis=1)
        if broken.any():
            raise BagError(
                f"{ref} has values that are no finite numbers in {np.count_nonzero(broken)} of {len(broken)} "
                f"instances, the first is {np.argmax(broken)}; extract them again, in float32 if float16 overflowed"
            )
        return FeatureBag(header, features_NC, _coords(file, ref, header.instances), _side0_px(_attributes(file)))


def write_features(
    path: Path, features_NC: np.ndarray, coords_N2: np.ndarray | None = None, **attributes: str | float
) -> None:
    """Write a feature file as CLAM and TRIDENT do, whole or not at all.

    `coords_N2` are level-0 pixels. The attributes go where TRIDENT has them: `encoder` to the features, all others to
    the coordinates, or to the features where there are none. The same arrays give the same bytes.
    """
    with create_hdf5(path) as (file, _):
        features = coords = file.create_dataset("features", data=features_NC)
        if coords_N2 is not None:
            coords = file.create_dataset("coords", data=coords_N2)
        for name, value in attributes.items():
            (features if name == "encoder" else coords).attrs[name] = value


def _is_ours(file: Group) -> bool:
    return _said(file, "format") in (FORMAT, MERGED_FORMAT)


def _name(file: Group) -> str | None:
    return next((name for name in _NAMES if name in file), None)


def _header(file: Group, ref: BagRef) -> FeatureHeader:
    instances, channels = _shape(_features(file, ref))
    spec = {FEATURES: channels, **_spec(_attributes(file))}
    return FeatureHeader(ref.path.name.removesuffix(SUFFIX), instances, channels, spec)


def _features(file: Group, ref: BagRef) -> Dataset:
    """The dataset of the features, of a shape and type that can be used, all there."""
    name = _name(file)
    if _is_ours(file) or name is None:
        raise BagError(
            f"{ref} is an HDF5 file without features; give the folder of the files that CLAM (h5_files), TRIDENT "
            "(features_…) or STAMP wrote, not that of the coordinates"
        )
    dataset = file.dataset(name)
    shape = dataset.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 1):
        raise BagError(
            f"{ref} has {name} of the shape {shape}, expected (instances, channels), a vector for every tile; "
            "extract the features of tiles, not of the slide"
        )
    if 0 in shape:
        raise BagError(f"{ref} has no instances: its {name} have the shape {shape}; leave this slide out")
    if dataset.dtype.kind not in "fiu":
        raise BagError(f"{ref} has {name} of the type {dataset.dtype}, expected float16 or float32; {_REMEDY}")
    _check_all_there(dataset, ref)
    return dataset


def _check_all_there(dataset: Dataset, ref: BagRef) -> None:
    try:
        dataset.check()
    except ValueError as error:
        raise BagError(f"{ref} is incomplete: {error}; {_REMEDY}") from error


def _shape(dataset: Dataset) -> tuple[int, int]:
    instances, channels = dataset.shape[-2:]
    return int(instances), int(channels)


def _values(dataset: Dataset) -> np.ndarray:
    """Float32 (N, C); what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return dataset.read().astype(np.float32).reshape(_shape(dataset))


def _coords(file: Group, ref: BagRef, instances: int) -> np.ndarray | None:
    """Int64 (N, 2) of level-0 pixels. Those of STAMP are µm, or pixels of its own, and a file does not hold the mpp."""
    if "coords" not in file or _name(file) == "feats" or file.has("unit"):
        return None
    dataset = file.dataset("coords")
    if dataset.shape not in ((instances, 2), (1, instances, 2)) or dataset.dtype.kind not in "fiu":
        raise BagError(
            f"{ref} has coords of the shape {dataset.shape} and type {dataset.dtype}, expected {(instances, 2)} "
            f"numbers, x and y of every instance; {_REMEDY}"
        )
    _check_all_there(dataset, ref)
    values = dataset.read().reshape(instances, 2)
    if not (np.isfinite(values).all() and (abs(values.astype(np.float64)) < _MOST_COORDINATE).all()):
        raise BagError(f"{ref} has coords that are no finite numbers, or none of pixels; {_REMEDY}")
    return np.rint(values).astype(np.int64)


def _attributes(file: Group) -> dict[str, Any]:
    """What the file, its coordinates and its features say of the patches, as plain values, the last winning.

    Others are not read: a damaged string can end the process in HDF5 itself.
    """
    holders: list[Group | Dataset] = [file, *(file.dataset(name) for name in ("coords", *_NAMES) if name in file)]
    return {name: _said(holder, name) for holder in holders for name in _ATTRIBUTES if holder.has(name)}


def _said(holder: Group | Dataset, name: str) -> Any:
    """An attribute as JSON holds it; None where there is none, no number or short text, or TRIDENT's 'None'."""
    try:
        plain = holder.attribute(name).tolist()
    except ValueError:
        return None
    if isinstance(plain, bytes):
        plain = plain.decode("utf-8", "replace")
    return None if plain == "None" else plain


def _spec(attributes: dict[str, Any]) -> dict[str, Any]:
    """The encoder, and the scale of the patches where it is said: features of another scale are other features.

    Their side in level-0 pixels is no part of it: it goes with the scanner.
    """
    scale = {}
    for names in (_SCALE, _SCALE_UM):
        if all(_is_scale(attributes.get(name)) for name in names):
            scale.update({name: attributes[name] for name in names})
    return {"encoder": _encoder(attributes), **scale}


def _encoder(attributes: dict[str, Any]) -> str | None:
    named = (str(attributes[name])[:_MOST_TEXT] for name in _ENCODERS if attributes.get(name))
    # TRIDENT says only to which folder the features went, features_<encoder>.
    found = re.search(r"features_([^/\\]+)[/\\]*$", str(attributes.get("savetodir", "")))
    return next(named, found and found[1])


def _side0_px(attributes: dict[str, Any]) -> float | None:
    """TRIDENT says it; CLAM's coordinates, where their attributes came along, say the side at a level."""
    side, patch, downsample = (attributes.get(name) for name in ("patch_size_level0", "patch_size", "downsample"))
    if side is None and isinstance(downsample, list) and downsample and _is_scale(patch) and _is_scale(downsample[0]):
        side = patch * downsample[0]
    return float(side) if _is_scale(side) and side > 0 else None


def _is_scale(value: Any) -> TypeGuard[float]:
    """Whether a value can be a size or a scale."""
    return isinstance(value, int | float) and abs(value) < _MOST_SCALE
