"""`python -m tiling.merge BAGS… --out FILE`: many bags as one file to move around, and such a file as bags again."""

import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from tiling import cli
from tiling.bag import Bag, BagRef, bag_path, differing, read_bag, read_header, write_bag, write_merged
from tiling.bags import Bags, open_bags, portable
from tiling.errors import BagError, InputError
from tiling.manifest import ManifestRow, read_manifest, write_manifest
from tiling.output import make_writable, sweep
from tiling.progress import progress


def main(argv: list[str] | None = None) -> int:
    """Merge or split; status 0 if it is done, 2 for wrong input, and then nothing was written."""
    return cli.run(_parser, _work, argv)


def _parser() -> ArgumentParser:
    parser = cli.make_parser("python -m tiling.merge", "Put many bags into one file, or take such a file apart.")
    parser.add_argument("bags", nargs="+", help="folders of bags, and merged files")
    parser.add_argument("--out", help="file for all their bags together")
    parser.add_argument("--split", help="folder for each of their bags in a file of its own, as they were")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    return parser


def _work(args: Namespace) -> int:
    if bool(args.out) == bool(args.split):
        raise InputError("give either --out, a file for all bags together, or --split, a folder for each on its own")
    sources = [open_bags(Path(path)) for path in args.bags]
    refs, manifest = together(sources)
    if args.out:
        merge(refs, manifest, _new_file(Path(args.out), sources, args.overwrite))
    else:
        split(refs, manifest, Path(args.split), args.overwrite)
    without = len(manifest.keys() - refs.keys())
    print(f"{len(refs)} bags in {args.out or args.split}, and the reasons of {without} slides that have none")
    return cli.OK


def together(sources: Sequence[Bags]) -> tuple[dict[str, BagRef], dict[str, ManifestRow]]:
    """The bags and the manifests of several sources as one; raises InputError where two bags have one name."""
    refs: dict[str, BagRef] = {}
    manifest: dict[str, ManifestRow] = {}
    for source in sources:
        if twice := sorted(refs.keys() & source.refs.keys()):
            raise InputError(
                f"two bags have the name {twice[0]!r}: {refs[twice[0]]} and {source.refs[twice[0]]}; "
                "leave one out, or merge them into different files"
            )
        refs.update(source.refs)
        manifest.update({name: row for name, row in source.manifest.items() if name in source.refs})
    for source in sources:  # a slide may have failed in one place and gone well in another
        for name in source.manifest.keys() - refs.keys():
            manifest.setdefault(name, source.manifest[name])
    if not refs:
        names = ", ".join(repr(str(source.path)) for source in sources)
        raise InputError(f"{names} holds no bags; make them with `python -m tiling`")
    return {name: refs[name] for name in sorted(refs)}, manifest


def merge(refs: dict[str, BagRef], manifest: dict[str, ManifestRow], out: Path) -> None:
    """Write the bags as one file, one after the other; raises BagError, writing nothing, where some are damaged."""
    _refuse_unfit(refs)
    make_writable(out.parent)
    sweep(out.parent)
    with closing(_read_all(refs, "merging")) as bags:
        write_merged(out, bags, portable(manifest))


def split(refs: dict[str, BagRef], manifest: dict[str, ManifestRow], out: Path, overwrite: bool) -> None:
    """Write each bag into a file of its own; raises BagError, writing nothing, where some are damaged."""
    there = [name for name in refs if bag_path(out, name).exists()]
    if there and not overwrite:
        raise InputError(
            f"the folder {str(out)!r} has {len(there)} of the bags already, the first is {there[0]!r}; "
            "choose another --split, or --overwrite them"
        )
    _refuse_unfit(refs)
    make_writable(out)
    sweep(out)
    with closing(_read_all(refs, "splitting")) as bags:
        for name, bag in bags:
            write_bag(bag_path(out, name), bag)
    if manifest:
        write_manifest(out, {**read_manifest(out), **manifest})


def _new_file(out: Path, sources: Sequence[Bags], overwrite: bool) -> Path:
    if out.is_dir():
        raise InputError(f"--out {str(out)!r} is a folder; give the name of a file, or --split for a folder of bags")
    if any(source.path.is_dir() and source.path.resolve() == out.parent.resolve() for source in sources):
        raise InputError(f"--out {str(out)!r} would lie among the bags and be taken for one; choose another place")
    if out.exists() and not overwrite:
        raise InputError(f"the file {str(out)!r} exists; choose another --out, or --overwrite it")
    return out


def _refuse_unfit(refs: dict[str, BagRef]) -> None:
    """Raise BagError that names all damaged bags, InputError where two cannot be used together."""
    specs, damaged = {}, []
    with progress(len(refs), "bag", "checking") as bar:
        for name, ref in refs.items():
            try:
                specs[name] = read_header(ref).made
            except BagError as error:
                damaged.append((name, error))
            bar.update()
    if len(damaged) == 1:
        raise damaged[0][1]
    if damaged:
        names = ", ".join(repr(name) for name, _ in damaged)
        raise BagError(f"{len(damaged)} bags are damaged ({names}), and of the first: {damaged[0][1]}")
    first, *others = specs
    for name in others:
        if settings := differing(specs[first], specs[name]):
            raise InputError(
                f"the bags {refs[first]} and {refs[name]} were made with different {', '.join(settings)} and cannot "
                "be used together; tile all slides alike, or keep them apart"
            )


def _read_all(refs: dict[str, BagRef], what: str) -> Generator[tuple[str, Bag], None, None]:
    with progress(len(refs), "bag", what) as bar:
        for name, ref in refs.items():
            yield name, read_bag(ref)
            bar.update()


if __name__ == "__main__":
    sys.exit(main())
