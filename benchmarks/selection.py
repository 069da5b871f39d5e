"""Does it help to let attention pick the tiles? Three data sets on which it is known where to look.

`python benchmarks/selection.py --out FOLDER --data DATA` goes the whole road by the commands on each of them:

1. pale: 600 made-up slides of 2048 x 1536 px, `python -m tiling.synthetic --lesions pale`. Every other has one or two
   pools of mucin of 150 to 240 px, which is lighter than the tissue about it, and 2 to 7 of some 80 tiles of 128 px
   with tissue. All slides have such pale areas, as many and as large: in benign ones all are oedema. The stains are of
   five looks, and pen, folds and dust lie on them as on the demo's slides.
2. patches: 116 slides of 10 x 10 patches of real lymph nodes, 96 px each, from DATA/patches/patches.zip (PatchCamelyon:
   Veeling et al. 2018). Every other has 4, 6 or 8 patches of tumour side by side; they are not the darkest, crowded
   lymphocytes are. A tile is a patch. There are too few for a slide each: each of the 29 patients has some of his own,
   and his four slides are laid out of them anew (`compose_large`).
3. digits: 600 pages of 900 tiles, of five digits of which three are of one class, which is to be told, and 50 scribbles
   (Bergner et al. 2023, majority task; 5,000 and 1,000 pages there), from DATA/digits.

For each way to pick: the share of lesion tiles among the first 4, 8 and 16 tiles of the slides that have any, the share
of those caught that could have been caught, and AUC or accuracy, by slide out of fold, of the model trained on 16.
The ways are the rules of `--rank`; attention, by ChipNet on a coarse overview (first round) and, trained again, on a
fine one (second round), in folds so that no slide is looked at by a model that has seen it; half by attention and half
by tissue; and the oracle, who takes all lesion tiles and fills up by lot. ChipNet's own figure stands beside.

A tile is lesion where a quarter of it is, or where it holds a quarter of a digit. What is finished is not done again;
the table of what is there is printed at the end, or at once with `--table`.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.catch import caught, picks_of, read_truth, write_oracle
from benchmarks.commands import command, figure, is_finished, train
from benchmarks.data_sets import DATA_SETS, WEIGHTS, DataSet
from benchmarks.machine import machine

KS = (4, 8, 16)
RULES = ("tissue", "darkness", "uniform")
ROUNDS = ("first", "second")
MIXED, ORACLE = "mixed", "oracle"


class Way(NamedTuple):
    """A way to pick tiles on a data set, the folder where all of the set lies, and the folder of real data.

    `looking` and `training` are more flags of ChipNet's training and of the model's, which name what comes of them.
    """

    name: str
    data_set: DataSet
    folder: Path
    data: Path
    looking: tuple[str, ...] = ()
    training: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """What tells the flags of ChipNet's training in names."""
        return "".join("_" + word.removeprefix("--") for word in self.looking)

    @property
    def bags(self) -> Path:
        """The bags picked so."""
        return self.folder / "bags" / (self.name if self.name in (*RULES, ORACLE) else self.name + self.tag)

    @property
    def run(self) -> Path:
        """The run trained on them."""
        return self.folder / "runs" / "+".join([self.bags.name, *(word.removeprefix("--") for word in self.training)])

    @property
    def common(self) -> list[object]:
        """The flags that both trainings have."""
        return ["--device", "cpu", "--weights", (self.data / WEIGHTS).resolve()]


def main(argv: list[str] | None = None) -> int:
    """Make, pick and train what is not there yet, and print the tables; status 0."""
    args = _parser().parse_args(argv)
    for name, data_set in {} if args.table else DATA_SETS.items():
        folder = args.out / name
        ways = [
            Way(way, data_set, folder, args.data, args.looking, args.training)
            for way in (*RULES, *ROUNDS, MIXED, ORACLE)
            if not args.only or {name, f":{way}", f"{name}:{way}"} & {*args.only}
        ]
        if ways and not (folder / "tiles.csv").exists():
            data_set.compose(args.data, folder, args.slides or data_set.slides)
        for way in ways:
            pick(way)
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(learn, [] if args.pick else ways))
    for name, data_set in DATA_SETS.items():
        if (args.out / name / "tiles.csv").exists():
            print("\n".join(table(name, data_set, args.out / name)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for slides, bags and runs")
    add(
        "--data",
        type=Path,
        default=Path("../shared/data"),
        help="folder with patches/patches.zip, digits/ and weights/",
    )
    add("--only", nargs="+", metavar="SET:WAY", default=[], help="parts, such as pale, pale:tissue, :oracle")
    add("--slides", type=int, help="so many slides a set, for a try")
    add("--jobs", type=int, default=1, help="trainings at a time, a thread each")
    add("--pick", action="store_true", help="stop before the models on the tiles are trained")
    for what, of in (("looking", "ChipNet's training"), ("training", "the models'")):
        add(f"--{what}", type=_words, default=(), metavar="FLAGS", help=f"more flags of {of}, as --{what}='--lr 1e-3'")
    add("--table", action="store_true", help="print what is there, and do nothing")
    return parser


def _words(flags: str) -> tuple[str, ...]:
    return tuple(flags.split())


def pick(way: Way) -> None:
    """Make the bags of a way to pick, where they are not there."""
    slides, data_set = way.folder / "slides", way.data_set
    if len(list(way.bags.glob("*.h5"))) == len(list(slides.iterdir())):
        return
    if way.name == ORACLE:
        write_oracle(slides, read_truth(way.folder / "tiles.csv"), data_set.tiles, way.bags)
    elif way.name in RULES:
        command("-m", "tiling", slides, "--out", way.bags, "--rank", way.name, *data_set.tiling)
    else:
        tissue = way._replace(name="tissue")
        pick(tissue)
        chipnet = look(tissue, ROUNDS[-1] if way.name == MIXED else way.name)
        share = ("--attention-share", "0.5") if way.name == MIXED else ()
        command(
            "-m", "tiling.reselect", tissue.bags, "--out", way.bags, "--slides", slides, "--rank", "attention",
            "--chipnet", chipnet, *share,
        )  # fmt: skip


def look(tissue: Way, nth: str) -> Path:
    """The run of ChipNet of a round, trained on the overviews in the bags picked by tissue."""
    run, data_set = tissue.folder / "runs" / f"chipnet-{nth}{tissue.tag}", tissue.data_set
    train(
        run, "--arch", "chipnet", "--bags", tissue.bags, "--labels", tissue.folder / "labels.csv",
        "--overview-px", data_set.overview_px[ROUNDS.index(nth)], *data_set.looking, *tissue.common,
        *tissue.looking,
    )  # fmt: skip
    return run


def learn(way: Way) -> None:
    """Train the model on the tiles picked."""
    flags = ("--train-px", way.data_set.train_px, *way.data_set.training, *way.common, *way.training)
    train(way.run, "--bags", way.bags, "--labels", way.folder / "labels.csv", *flags)


def table(name: str, data_set: DataSet, folder: Path) -> Iterator[str]:
    """A Markdown table of what there is of a data set."""
    truth, slides = read_truth(folder / "tiles.csv"), len(list((folder / "slides").iterdir()))
    tiles = sum(map(len, truth.values())) / len(truth)
    yield f"\n{name}: {slides} slides, {len(truth)} of them with lesions, {tiles:.1f} lesion tiles each"
    yield f"{machine('torch', 'timm')}\n"
    heads = " | ".join(f"k = {k}: lesion among picked / of possible" for k in KS)
    yield f"| picked by | {heads} | {data_set.figure} |\n|---|{'---|' * len(KS)}---|"
    names = sorted((path.name for path in (folder / "bags").glob("*")), key=_place)
    for bags in (folder / "bags" / name for name in names):
        if all((bags / f"{slide_id}.h5").exists() for slide_id in truth):
            picks = picks_of(bags, truth)
            cells = " | ".join(str(caught(picks, truth, k)) for k in KS)
            runs = [run for run in sorted((folder / "runs").glob(f"{bags.name}*")) if _is_on(run, bags)]
            for run in runs or [bags]:
                yield f"| {run.name} | {cells} | {figure(run, data_set.figure) if run in runs else ''} |"
    for run in filter(is_finished, sorted((folder / "runs").glob("chipnet-*"))):
        yield f"| ({run.name} itself) | {'| ' * len(KS)}{figure(run, data_set.figure)} |"


def _place(name: str) -> tuple[int, str]:
    """Where the row of a way stands: rules, rounds, the mixture, the oracle."""
    order = (*RULES, *ROUNDS, MIXED, ORACLE)
    return order.index(name.partition("_")[0]), name


def _is_on(run: Path, bags: Path) -> bool:
    """Whether a run is finished, and of these bags."""
    return is_finished(run) and run.name.partition("+")[0] == bags.name


if __name__ == "__main__":
    sys.exit(main())
