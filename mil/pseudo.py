"""`python -m mil.pseudo --run RUN --bags UNLABELLED --labels labels.csv --out labels+.csv`: labels spread to others."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jsonargparse import ArgumentParser, Namespace

from mil.errors import MilError
from mil.spreading import SpreadSpec, kept, spread
from mil.task import ANY_OF, Task
from tiling import cli
from tiling.bags import Bags, open_bags
from tiling.errors import InputError, TilingError
from tiling.features import is_features
from tiling.output import make_writable
from tiling.progress import aligned, progress, short, shown

if TYPE_CHECKING:
    from mil.embed import Embedding
    from mil.folds import Split
    from mil.known import Known
    from mil.scorer import Scorer


class FoldLabels(NamedTuple):
    """What one fold may learn of the unlabelled slides `slides`: probabilities float64 (n, K), nan where nothing.

    `checked` has the same of the slides that the fold stops on, as if they had no label.
    """

    slides: list[str]
    chances_NK: np.ndarray
    checked_VK: np.ndarray

    def learned(self) -> dict[str, np.ndarray]:
        """The probabilities of each slide of which something is learned, by its name."""
        by_name = zip(self.slides, self.chances_NK, strict=True)
        return {slide: chances_K for slide, chances_K in by_name if not np.isnan(chances_K).all()}


def main(argv: list[str] | None = None) -> int:
    """Write a wider labels table; status 0 if it went well, 1 if some bag failed, 2 for wrong input."""
    return cli.run(_parser, _work, argv, (MilError, TilingError))


def _parser() -> ArgumentParser:
    parser = cli.make_parser("python -m mil.pseudo", "Spread labels to slides that have none, for each fold by itself.")
    add = parser.add_argument
    add("--run", nargs="+", required=True, help="run that train.py wrote; several, or an ensemble, of the same splits")
    add("--bags", required=True, help="bags of the unlabelled slides: a folder, a merged file, or feature files")
    add("--labels", required=True, help="labels table of the run; rows with no label say whose unlabelled slides are")
    add("--labelled-bags", help="bags of the labelled slides, where they are not in --bags; the run's if left out")
    add("--out", required=True, help="CSV for the wider labels table, which train.py --labels takes")
    cli.add_settings(parser, SpreadSpec, "label spreading")
    add("--instance-chunk", type=int, help="tiles that go through the backbone at a time; all if left out")
    add("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    return parser


def _work(args: Namespace) -> int:
    spec = cli.settings_from(args, SpreadSpec)
    instance_chunk = None if args.instance_chunk is None else cli.count_from(args, "instance_chunk")
    out = Path(args.out)
    if out.exists() and out.samefile(args.labels):
        raise InputError(f"--out {args.out!r} is the labels table itself; give another name")
    bags = open_bags(Path(args.bags))
    make_writable(out.parent)
    from mil.known import gather_known, write_wider  # torch: wrong input is told before
    from mil.predict import pick_device
    from mil.scorer import load_scorer

    scorer = load_scorer(list(map(Path, args.run)), pick_device(args.device), instance_chunk)
    known = gather_known(list(map(Path, args.run)), Path(args.labels), bags)
    if known.left_out:
        tell(f"{len(known.left_out)} labelled slides are not in the run, and are left out: {', '.join(known.left_out)}")
    found, failed = embed_all(scorer, known, bags, args.labelled_bags)
    folds = [fold_labels(scorer, known, split, found, spec) for split in known.splits]
    learned = {split.name: fold.learned() for split, fold in zip(known.splits, folds, strict=True)}
    write_wider(out, known, learned, scorer.task)
    print("\n".join(lines(known, folds, scorer)))
    print(f"the wider labels table, for train.py --labels, is {shown(out)}")
    return cli.SOME_FAILED if failed else cli.OK


def embed_all(
    scorer: "Scorer", known: "Known", bags: Bags, labelled_bags: str | None
) -> tuple[dict[str, "Embedding"], int]:
    """The embeddings of all slides by name, and how many unlabelled ones have none, each of which is told.

    Raises what is wrong with the bag of a labelled slide, from which the run has learned.
    """
    labelled = [*known.labels.table["slide_id"]]
    elsewhere = [name for name in labelled if name not in bags.refs]
    parts = [(bags, [*(name for name in labelled if name in bags.refs), *known.patient_of])]
    if elsewhere:
        parts.insert(0, (_bags_of(labelled_bags or known.run_bags, elsewhere), elsewhere))
    from mil.embed import embed

    found: dict[str, Embedding] = {}
    failed = 0
    with progress(len(labelled) + len(known.patient_of), "slide", "embedding") as bar:
        for where, names in parts:
            _refuse_kind(where, names[0], scorer)
            for name, embedding in embed(scorer.runs, where, names, cli.available_cpus()):
                bar.update()
                if not isinstance(embedding, Exception):
                    found[name] = embedding
                elif name in known.patient_of:
                    failed += 1
                    tell(f"failed: {shown(name)}: {embedding}")
                else:
                    raise embedding
    return found, failed


def fold_labels(
    scorer: "Scorer", known: "Known", split: "Split", found: Mapping[str, "Embedding"], spec: SpreadSpec
) -> FoldLabels:
    """What a fold may learn, spread from the slides that it trains on alone, by its model; a mean over runs.

    Neither slides that it stops on nor those that it is tested on have a place in the graph.
    """
    slides = [slide for slide in known.free(split) if slide in found]
    named = known.labels.table["slide_id"]
    train, valid = [*named.iloc[split.train]], [*named.iloc[split.valid]]
    targets, task = known.labels.targets[split.train], scorer.task

    def spread_to(others: Sequence[str]) -> np.ndarray:
        of_runs = []
        for place, run in enumerate(scorer.runs):
            model = next(each for each, card in enumerate(run.cards) if card.fold == split.fold)
            vectors_NC = np.stack([found[slide][place][model] for slide in [*train, *others]])
            of_runs.append(spread(task, vectors_NC, targets, spec)[len(train) :])
        return kept(task, np.mean(of_runs, axis=0), spec)

    # To judge by, in a graph of their own: these must have no part in the one that is learned from.
    checked_VK = spread_to([*slides, *valid])[len(slides) :] if valid else np.zeros((0, len(task.classes)))
    return FoldLabels(slides, spread_to(slides) if slides else checked_VK[:0], checked_VK)


def lines(known: "Known", folds: Sequence[FoldLabels], scorer: "Scorer") -> Iterator[str]:
    """What became of the unlabelled slides in each fold, and how right that is on slides that folds stop on."""
    task = scorer.task
    yield f"pseudo labels of {len(known.patient_of)} unlabelled slides, for each fold by itself:"
    rows = [["fold", "may learn of", "has a label", *(short(name) for name in task.classes)]]
    for split, fold in zip(known.splits, folds, strict=True):
        has = (~np.isnan(fold.chances_NK)).any(axis=1)
        shares = np.nansum(fold.chances_NK, axis=0)
        rows.append([short(split.name), str(len(fold.slides)), str(has.sum()), *(f"{share:.1f}" for share in shares)])
    yield from aligned(rows)
    judged = [
        judge(task, fold.checked_VK, known.labels.targets[split.valid])
        for split, fold in zip(known.splits, folds, strict=True)
    ]
    asked, said, right = np.sum(judged, axis=0)
    if asked:
        what = "labels of slides" if task.kind == ANY_OF else "slides"
        yield f"of {asked} {what} that folds stop on, taken as unlabelled, {said} get a label and {right} the right one"


def judge(task: Task, chances_VK: np.ndarray, targets: np.ndarray) -> tuple[int, int, int]:
    """How many labels were asked for, how many given, and how many of those are right, of slides whose own is known."""
    if task.kind == ANY_OF:
        asked_VK = ~np.isnan(targets)
        said_VK = asked_VK & ~np.isnan(chances_VK)
        return int(asked_VK.sum()), int(said_VK.sum()), int((said_VK & ((chances_VK >= 0.5) == targets)).sum())
    said = ~np.isnan(chances_VK).any(axis=1)
    right = chances_VK[said].argmax(axis=1) == targets[said]
    return len(targets), int(said.sum()), int(right.sum())


def tell(sentence: str) -> None:
    """Say something beside what comes out, whatever bar there is."""
    from tqdm import tqdm

    tqdm.write(sentence, file=sys.stderr)


def _bags_of(path: str, names: Sequence[str]) -> Bags:
    """Where those labelled slides' bags are that are not beside the others; raises InputError where one is missing."""
    bags = open_bags(Path(path))
    if missing := [name for name in names if name not in bags.refs]:
        raise InputError(
            f"the labelled slide {missing[0]!r} has no bag in --bags nor in {path!r} (so {len(missing)} of them); say "
            "with --labelled-bags where they are"
        )
    return bags


def _refuse_kind(bags: Bags, name: str, scorer: "Scorer") -> None:
    """Raise InputError where the run learned from features and there are none, or the reverse."""
    if is_features(bags.refs[name]) != scorer.takes_features:
        kinds = ("feature files", "bags of tiles")[:: 1 if scorer.takes_features else -1]
        raise InputError(f"the run was trained on {kinds[0]}, and {str(bags.path)!r} holds {kinds[1]}")


if __name__ == "__main__":
    sys.exit(main())
