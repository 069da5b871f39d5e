"""`python -m tiling.reselect BAGS --out NEW --chipnet RUN`: other tiles of slides that are tiled already.

All that decides is in a bag: the overview that a ChipNet looks at, and where the grid lies. A tile that the bag has is
taken over as its bytes, and a slide is opened only for one that it has not.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from tiling import cli
from tiling.bag import Bag, BagHeader, differing, read_bag, read_header, software
from tiling.bags import Bags, open_bags, ref_in
from tiling.batch import made_with, make_bags
from tiling.errors import BagError, InputError, SlideError
from tiling.manifest import ManifestRow
from tiling.picker import Chipnet, look_at
from tiling.places import Places
from tiling.progress import progress
from tiling.rank import Grid, make_grid
from tiling.running import (
    add_chipnet,
    add_running,
    chipnet_from,
    out_from,
    runner_from,
    shard_from,
    summary,
    tell_strangers,
)
from tiling.slide import EXTENSIONS, Slide, open_slide
from tiling.sources import SlideRef, find_slides
from tiling.spec import TileSpec
from tiling.tile import Encoded, cut_tiles

_MOST_CELLS = 100_000_000  # a slide of 200,000 px a side has as many at a fortieth of the usual side
_ENCODING = ("size", "codec", "quality", "chroma", "train_px")


class Old(NamedTuple):
    """The slides of bags that are there, and the first spec of these bags, None where none can be read."""

    slides: list[SlideRef]
    spec: dict[str, Any] | None


def main(argv: list[str] | None = None) -> int:
    """Pick other tiles; status 0 if all went well, 1 if some slide failed, 2 for wrong input."""
    return cli.run(_parser, _work, argv)


def _parser() -> ArgumentParser:
    parser = cli.make_parser("python -m tiling.reselect", "Pick other tiles of slides that are tiled already.")
    parser.add_argument("bags", help="folder of bags, or a merged file of them")
    parser.add_argument("--out", required=True, help="folder for the new bags and their manifest.csv")
    parser.add_argument(
        "--rank", type=Literal["attention", "box"], default="attention", help="what makes a tile good, as for tiling"
    )
    add_chipnet(parser, "run of `train.py --arch chipnet` that says where to look")
    for name, kind, what in (
        ("instances", int, "tiles kept of a slide, at most; as many as before if left out"),
        ("min-tissue", float, "share of a tile that must be tissue; as before if left out"),
        ("attention-share", float, "share of the tiles that attention picks, the rest being picked by tissue"),
        ("min-distance", float, "least distance between the centres of tiles, in their sides"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=what)
    parser.add_argument(
        "--slides",
        nargs="+",
        help="where the slides are, if they were moved or are not near the bags, in the folder that has both; a slides "
        "table also says whose they are (patient_id)",
    )
    cli.add_config(parser)
    add_running(parser, "pick tiles")
    return parser


def _work(args: Namespace) -> int:
    source, out, run, shard = open_bags(Path(args.bags)), out_from(args), runner_from(args), shard_from(args)
    if source.path.resolve() == out.resolve():
        raise InputError(f"--out {args.out!r} is where the bags are; choose another folder")
    moved = {slide.slide_id: slide for slide in find_slides(map(Path, args.slides))} if args.slides else {}
    old = read_old(source, moved)
    spec = spec_from(args, old.spec or {})
    chipnet = chipnet_from(args, spec.rank, needed=True)
    assert chipnet is not None
    slides, others = shard.pick(old.slides), _without_bag(source)
    tell_strangers(chipnet, slides)
    theirs = {name: others[name] for name in (slide.slide_id for slide in shard.pick(_named(others)))}
    make = partial(reselected, Path(os.path.abspath(source.path)), spec, chipnet)
    with cli.interrupted_by_sigterm():
        rows = make_bags(slides, make, made_with(spec, chipnet), out, run, args.overwrite, shard, theirs)
    return summary([*rows, *theirs.values()], out, shard)


def read_old(source: Bags, moved: Mapping[str, SlideRef]) -> Old:
    """The slides of all bags, as far as these can be read, and their spec; `moved` says where some are now.

    Raises InputError where there are no bags of tiles, they were made with different settings, or one names a slide
    that is not to be opened (see `slide_of`).
    """
    slides, first = [], None
    with progress(len(source.refs), "bag", "reading") as bar:
        for name, ref in source.refs.items():
            bar.update()
            try:
                header = read_header(ref)
            except BagError:  # it will have its row
                slides.append(SlideRef(name, ref.path))
                continue
            first = header if first is None else first
            if names := differing(first.spec, header.spec):
                raise InputError(
                    f"the bags {first.slide_id!r} and {name!r} were made with different {', '.join(names)}; give bags "
                    "that were made alike"
                )
            slides.append(slide_of(name, header, moved.get(name), source.path.resolve().parent))
    if not slides:
        raise InputError(f"{str(source.path)!r} holds no bags; make them with `python -m tiling`")
    if first is None:
        read_header(source.refs[slides[0].slide_id])  # says why
    return Old(slides, None if first is None else first.spec)


def slide_of(name: str, header: BagHeader, moved: SlideRef | None, near: Path) -> SlideRef:
    """The slide of a bag, with the mpp that the bag was made with.

    Unless it is `moved`, its path is what the bag says, and bags may be of anybody: InputError where that leads to a
    file outside of the folder `near`, or to one that is no slide by its extension.
    """
    path, patient = (Path(header.slide_path), None) if moved is None else (moved.path, moved.patient_id)
    if moved is None and not _is_slide_below(near, path):
        raise InputError(
            f"the bag {name!r} says that its slide is {header.slide_path!r}, which is not below {str(near)!r}, where "
            "the bags are, and a path in a bag is followed no further; give --slides with the slides, their folder or "
            "a table of them"
        )
    of_table, of_default = (header.mpp if header.mpp_from == source else None for source in ("table", "default"))
    return SlideRef(name, path, of_table, patient, of_default)


def _is_slide_below(folder: Path, path: Path) -> bool:
    """Whether a path leads to a slide in the folder, links and all, or to nothing, which cannot be opened anyway."""
    try:
        if not path.exists():
            return True
    except OSError:  # its name is too long, or nobody may look into its folder
        return True
    return path.suffix.lower() in EXTENSIONS and path.is_absolute() and path.resolve().is_relative_to(folder)


def spec_from(args: Namespace, old: dict[str, Any]) -> TileSpec:
    """The settings of the new bags: those of the old ones, but for what chooses the tiles."""
    if old.get("whole") is not None:
        raise InputError(f"{args.bags!r} has bags of whole pictures, which are one tile each: there is none to pick")
    kept = {} if "box" in (args.rank, old.get("rank")) else {key: old.get(key) for key in ("instances", "min_tissue")}
    chosen = {key: args[key] for key in ("instances", "min_tissue") if args[key] is not None}
    free = {"instances": TileSpec.instances, "min_tissue": TileSpec.min_tissue, **kept, **chosen}
    picking = {"rank": args.rank, "attention_share": args.attention_share, "min_distance": args.min_distance}
    try:
        return TileSpec(**{**old, **free, **picking})
    except TypeError as error:
        raise InputError(
            f"the bags in {args.bags!r} have settings that this version does not know ({error}); tile the slides again"
        ) from error


def reselected(source: Path, spec: TileSpec, chipnet: Chipnet, slide: SlideRef) -> Bag:
    """The bag that tiling the slide with this spec would make, made from the bag of that name in `source`.

    Raises BagError where that is damaged, SlideError where a tile is needed that it has not and cannot be read.
    """
    old = read_bag(ref_in(source, slide.slide_id))
    header, look = old.header, partial(look_at, chipnet, slide.slide_id, slide.patient_id)
    size0_px = header.width_px, header.height_px
    places = spec.places_on(old.overview_rgb(), size0_px, grid_of(old, spec), look)
    pictures = _pictures(old, places, spec, slide)
    header = replace(
        header,
        slide_path=os.path.abspath(slide.path),
        spec=asdict(spec),
        codec=spec.codec,
        tiles=len(pictures),
        side0_px=places.side0_px,
        train_px=spec.train_px,
        picked=places.picked,
        software=software(),
    )
    return Bag(
        header, tuple(tile for tile, _ in pictures), places.x0, places.y0, places.score, places.tissue, old.overview,
        None if spec.train_px is None else tuple(small for _, small in pictures),
    )  # fmt: skip


def grid_of(old: Bag, spec: TileSpec) -> Grid:
    """The grid of the slide that a bag is of; raises BagError where its tiles do not lie on it."""
    header, was_box = old.header, old.header.spec.get("rank") == "box"
    # The bag does not hold the magnification of the objective, but what it led to.
    magnification = (spec.magnification or 0) * header.side0_px / spec.size or None
    slide = Slide(
        Path(header.slide_path), header.width_px, header.height_px, header.mpp,
        None if was_box else magnification, header.vendor, (),
    )  # fmt: skip
    downsample = spec.downsample_for(slide, header.mpp)
    if slide.width_px * slide.height_px > _MOST_CELLS * (spec.size * downsample) ** 2:
        raise BagError(
            f"the bag {header.slide_id!r} says that its slide has more than {_MOST_CELLS:,} cells; tile it again"
        )
    grid = make_grid(slide.width_px, slide.height_px, downsample, spec.size)
    off = header.side0_px != grid.side0_px or ((old.x0 - grid.x0) % grid.side0_px).any()
    if not was_box and (off or ((old.y0 - grid.y0) % grid.side0_px).any()):
        raise BagError(f"the tiles of bag {header.slide_id!r} do not lie on the grid of its settings; tile it again")
    return grid


def _pictures(old: Bag, places: Places, spec: TileSpec, slide: SlideRef) -> list[Encoded]:
    """The tiles at these places: those that the bag has as they are, the others cut from the slide."""
    corners = list(zip(places.x0.tolist(), places.y0.tolist(), strict=True))
    alike = places.side0_px == old.header.side0_px and all(
        old.header.spec.get(name) == getattr(spec, name) for name in _ENCODING
    )
    assert old.tiles is not None
    there: dict[tuple[int, int], Encoded] = {}
    if alike:
        small = old.small or (b"",) * len(old)
        there = dict(
            zip(zip(old.x0.tolist(), old.y0.tolist(), strict=True), zip(old.tiles, small, strict=True), strict=True)
        )
    missing = [corner for corner in corners if corner not in there]
    if missing:
        there.update(zip(missing, cut_tiles(_opened(slide, old.header), missing, places.side0_px, spec), strict=True))
    return [there[corner] for corner in corners]


def _opened(slide: SlideRef, header: BagHeader) -> Slide:
    """The slide, which must be the one that was tiled."""
    opened = open_slide(slide.path)
    found = slide.path.stat().st_size, opened.width_px, opened.height_px
    if found != (header.slide_bytes, header.width_px, header.height_px):
        raise SlideError(f"{str(slide.path)!r} is not the file any more that was tiled; tile it again")
    return opened


def _without_bag(source: Bags) -> dict[str, ManifestRow]:
    """The rows of slides of which there is no bag; one that should have one has lost it."""
    return {
        name: row if row.status != "done" else row._replace(status="failed", error="its bag is gone; tile it again")
        for name, row in source.manifest.items()
        if name not in source.refs
    }


def _named(rows: Mapping[str, ManifestRow]) -> list[SlideRef]:
    return [SlideRef(name, Path(row.path)) for name, row in rows.items()]


if __name__ == "__main__":
    sys.exit(main())
