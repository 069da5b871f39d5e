"""Who reads the bags of a cohort: a cache, a decoder on the CPU or on the GPU, or a reader of features or overviews."""

from typing import Literal

import torch

from mil.cache import open_cache
from mil.cohort import Cohort
from mil.data import JpegReader, Kept, OverviewReader, PixelReader, Reader, read_feature_tensor
from mil.jpeg import check_decoder, decodes_alike, torchvision_decodes
from tiling.features import FEATURES
from tiling.overview import OVERVIEWS

KEPT_BYTES = 2**30  # features or squares of a cohort up to this size stay in memory


def make_reader(
    cohort: Cohort, px: int, device: torch.device, cache: str | None, decode: Literal["auto", "cpu", "gpu"] = "auto",
    show: bool = True,
) -> Reader:  # fmt: skip
    """The reader of a cohort's bags for a training at `px` on `device`; it makes the cache if there is to be one.

    `cache` and `decode` are the settings of that name, `show` says whether there is a bar. Raises CacheError where a
    cache was asked for and cannot be made, SettingsError where the GPU is to decode and cannot.
    """
    spec = cohort.bag_spec
    if channels := spec.get(FEATURES):
        small = 4 * channels * sum(cohort.sizes) <= KEPT_BYTES
        return Kept(read_feature_tensor) if small else read_feature_tensor
    if OVERVIEWS in spec:
        squares = OverviewReader(px)
        return Kept(squares) if 3 * px**2 * len(cohort.bags) <= KEPT_BYTES else squares
    if decode == "gpu":
        check_decoder(spec, device)
        return JpegReader(px)
    if cache is not None and (made := open_cache(cohort.bags, cohort.sizes, spec, px, cache, show=show)):
        return made
    alike = decode == "auto" and device.type == "cuda" and decodes_alike(spec, px) and torchvision_decodes()
    return JpegReader(px) if alike else PixelReader(px)
