"""All slides of a scoring into its table, whoever makes them ready."""

from collections.abc import Callable, Sequence
from contextlib import closing

import pandas as pd

from mil.score_table import ScoreTable
from mil.scorer import Scorer
from mil.scoring import Scored, Scoring, row_of_failure
from tiling import cli
from tiling.output import written_name
from tiling.progress import progress, shown
from tiling.ready import Stream
from tiling.todo import Todo

NOT_REACHED = "the scoring was interrupted before this slide; run the same again with --resume"


def score_all(
    scorer: Scorer, metadata: pd.DataFrame | None, table: ScoreTable, todo: Todo, make: Callable[[Todo], Stream],
    also: Sequence[Callable[[Scored], None]], tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Bring a row for each slide into the table, those included that an interruption came before.

    `make` gives the slides ready to be scored (see `tiling.ready`), while scoring goes on in a thread. `also` is done
    with each slide, in that thread, before it has its row: with --resume one that has a row is done. `tell` is given a
    sentence for each that failed. Where no end of the slides is known SIGTERM ends the wait for more, elsewhere it
    interrupts, as Ctrl-C always does.
    """

    def done(scored: Scored) -> None:
        for act in also:
            act(scored)
        table.add(scored.row)
        if scored.row["error"]:
            tell(f"failed: {shown(scored.slide.slide_id)}: {scored.row['error']}")
        bar.update()

    told = cli.on_warning(todo.stop) if todo.stays_open else cli.interrupted_by_sigterm()
    with table, progress(len(todo.waiting), "slide", "scoring") as bar:
        try:
            with told, closing(make(todo)) as found, Scoring(scorer, metadata, done) as scoring:
                for slide, ready in found:
                    scoring.put(slide, ready)
        finally:
            _add_unscored(scorer, table, todo)


def _add_unscored(scorer: Scorer, table: ScoreTable, todo: Todo) -> None:
    """A row for each slide that has none, and for those that have changed since they got theirs."""
    left, names = todo.left(), table.names
    for slide in todo.slides:
        if slide in left or written_name(slide.slide_id) not in names:
            table.add(row_of_failure(scorer, slide, left.get(slide, NOT_REACHED)))
