"""What each slide gets beside its score: a picture, a page of the report; a score is worth more than either."""

from collections.abc import Callable
from pathlib import Path

from mil.errors import MilError
from mil.explain import explain
from mil.gradcam import check_maps
from mil.pages import Pages
from mil.scorer import Scorer
from mil.scoring import Scored
from tiling.bag import Bag
from tiling.batch import describe
from tiling.output import make_writable
from tiling.progress import shown

Tell = Callable[[str], None]


class Drawing:
    """Draws slides into a folder, and counts those of which there is no picture; see `mil.explain`."""

    def __init__(self, folder: Path, scorer: Scorer, with_grad_cam: bool, tell: Tell) -> None:
        """`tell` is given a sentence where a picture failed.

        Raises ModelError where there can be no Grad-CAM, InputError where nothing can be written.
        """
        if with_grad_cam:
            check_maps(scorer.runs[0])
        make_writable(folder)
        self.folder, self.scorer, self.with_grad_cam, self.tell = folder, scorer, with_grad_cam, tell
        self.undrawn = 0

    def __call__(self, scored: Scored) -> None:
        """Draw a slide if it has a score."""
        if scored.prediction is None or not isinstance(scored.bag, Bag):
            return
        slide, run = scored.slide, self.scorer.runs[0]
        try:
            explain(
                self.folder, slide.slide_id, run, scored.bag, scored.prediction, scored.metadata, self.with_grad_cam
            )
        except Exception as error:  # noqa: BLE001  # its row stays, and the other slides go on
            self.undrawn += 1
            why = str(error) if isinstance(error, MilError) else describe(slide, error)
            self.tell(f"no picture: {shown(slide.slide_id)}: {why}")


class Paging:
    """Adds slides to a report."""

    def __init__(self, pages: Pages, tell: Tell) -> None:
        """`tell` is given a sentence where a slide's page has no pictures though it should."""
        self.pages, self.tell = pages, tell

    def __call__(self, scored: Scored) -> None:
        """Add a slide, whether it has a score or not."""
        name = scored.row["slide_id"]
        if why := self.pages.add(name, scored.row, scored.bag, scored.prediction, scored.metadata):
            self.tell(f"no pictures in the report: {shown(name)}: {why}")
