"""A picture of each slide that was scored; a score is worth more than a picture."""

from collections.abc import Callable
from pathlib import Path

from mil.errors import MilError
from mil.explain import explain
from mil.gradcam import check_maps
from mil.run_scorer import RunScorer
from mil.scoring import Scored
from tiling.bag import Bag
from tiling.batch import describe
from tiling.progress import shown


class Drawing:
    """Draws slides into a folder, and counts those of which there is no picture; see `mil.explain`."""

    def __init__(self, folder: Path, scorer: RunScorer, with_grad_cam: bool, tell: Callable[[str], None]) -> None:
        """`tell` is given a sentence where a picture failed; raises ModelError where there can be no Grad-CAM."""
        if with_grad_cam:
            check_maps(scorer.runs[0])
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
