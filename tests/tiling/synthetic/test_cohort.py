from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from tiling.errors import InputError
from tiling.slide import open_slide
from tiling.synthetic.__main__ import main
from tiling.synthetic.artefacts import ARTEFACTS
from tiling.synthetic.cohort import (
    Lesion,
    SlidePlan,
    lesion_share,
    make_cohort,
    make_slide,
    plan_cohort,
    read_lesions,
    write_slide,
)
from tiling.synthetic.fields import Ellipse
from tiling.synthetic.histology import LOOKS, lay_out
from tiling.tissue import tissue_mask

SMALL = (1024, 768)
TINY = (640, 512)


class TestLesionShare:
    def test_tiles_inside_and_outside(self):
        lesion = Lesion("a", 0, 0, 1000, 1000)
        share = lesion_share([lesion], np.array([400, 1000, 0]), np.array([400, 0, 0]), 100)
        # The tile in the corner of the box lies outside of the ellipse.
        assert share.tolist() == [1.0, 0.0, 0.0]

    def test_ellipse_that_fills_the_tile_box(self):
        # 208 of the 16 × 16 points (2i - 15, 2j - 15) lie within 16 of the origin: .8125, the area is .785.
        points = range(-15, 16, 2)
        inside = sum(x * x + y * y <= 256 for x in points for y in points)
        assert inside == 208
        share = lesion_share([Lesion("a", 32, 64, 16, 16)], np.array([32]), np.array([64]), 16)
        assert share.tolist() == [208 / 256]

    def test_stretched_ellipse_covers_the_same_share(self):
        share = lesion_share([Lesion("a", 0, 0, 512, 256)], np.array([0, 256]), np.array([0, 0]), 256)
        half = sum(((x + 0.5) / 16 - 1) ** 2 + ((y + 0.5) / 8 - 1) ** 2 <= 1 for x in range(16) for y in range(16))
        assert share.tolist() == [half / 256, half / 256]

    def test_union_not_sum(self):
        one = Lesion("a", 32, 64, 16, 16)
        share = lesion_share([one, one, Lesion("a", 500, 500, 10, 10)], np.array([32]), np.array([64]), 16)
        assert share.tolist() == [208 / 256]

    def test_nothing_to_cover_or_to_be_covered(self):
        assert lesion_share([], np.array([0, 1]), np.array([0, 1]), 16).tolist() == [0.0, 0.0]
        assert lesion_share([Lesion("a", 0, 0, 9, 9)], np.array([]), np.array([]), 16).shape == (0,)


class TestMakeSlide:
    def test_same_plan_same_pixels(self):
        plan = SlidePlan(label=1, size_px=TINY, seed=(3, 1), artefacts=("pen_blue", "dust"))
        rgb, lesions = make_slide(plan)
        again, lesions_again = make_slide(plan)
        assert rgb.shape == (512, 640, 3)
        assert rgb.dtype == np.uint8
        assert np.array_equal(rgb, again)
        assert lesions == lesions_again
        assert not np.array_equal(rgb, make_slide(replace(plan, seed=(3, 2)))[0])

    def test_size_need_not_fit_the_lattice(self):
        rgb, _ = make_slide(SlidePlan(label=1, size_px=(523, 777)))
        assert rgb.shape == (777, 523, 3)

    @pytest.mark.parametrize("look", LOOKS)
    def test_lesions_lie_inside_tissue(self, look: str):
        for seed in range(3):
            rgb, lesions = make_slide(SlidePlan("a", label=1, size_px=SMALL, seed=(seed,), look=look))
            stained = rgb[..., 1] < np.percentile(rgb[..., 1], 95) - 15
            assert 0.15 < stained.mean() < 0.45
            assert 1 <= len(lesions) <= 3
            for lesion in lesions:
                assert lesion.slide_id == "a"
                assert 0 <= lesion.x0 < lesion.x0 + lesion.width_px <= SMALL[0]
                assert 0 <= lesion.y0 < lesion.y0 + lesion.height_px <= SMALL[1]
                assert stained[_inside(lesion)].mean() > 0.9

    def test_lesion_sizes_at_the_default_size(self):
        _, lesions = make_slide(SlidePlan(label=1, seed=(0,)))
        assert lesions
        assert all(250 <= side <= 700 for lesion in lesions for side in (lesion.width_px, lesion.height_px))

    def test_label_0_has_no_lesions(self):
        assert all(make_slide(SlidePlan(size_px=TINY, seed=(seed,)))[1] == [] for seed in range(4))

    def test_bare_glass(self):
        rgb, lesions = make_slide(SlidePlan(size_px=TINY, tissue=False, artefacts=("dust",)))
        assert lesions == []
        assert np.median(rgb) > 235
        assert (rgb < 200).mean() < 0.02

    @pytest.mark.parametrize("artefact", ARTEFACTS)
    def test_artefact_changes_a_part_of_the_picture(self, artefact: str):
        plan = SlidePlan(label=1, size_px=SMALL, seed=(8,))
        clean, lesions = make_slide(plan)
        rgb, same = make_slide(replace(plan, artefacts=(artefact,)))
        assert same == lesions
        assert 0 < (rgb != clean).any(axis=2).mean() < 0.25

    def test_ink_has_its_colour(self):
        for name, channel in (("pen_red", 0), ("pen_green", 1), ("pen_blue", 2)):
            rgb, _ = make_slide(SlidePlan(size_px=SMALL, tissue=False, artefacts=(name,)))
            ink = rgb[rgb.min(axis=2) < 80].mean(axis=0)
            assert ink.argmax() == channel

    def test_border_is_black_along_an_edge(self):
        rgb, _ = make_slide(SlidePlan(size_px=SMALL, tissue=False, artefacts=("border",)))
        assert any((edge < 12).all() for edge in (rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]))

    def test_unknown_names_and_small_sizes(self):
        with pytest.raises(InputError, match=r"'coffee'.*pen_green"):
            make_slide(SlidePlan(artefacts=("coffee",)))
        with pytest.raises(InputError, match=r"'psychedelic'.*pale"):
            make_slide(SlidePlan(look="psychedelic"))
        with pytest.raises(InputError, match="at least 512"):
            make_slide(SlidePlan(size_px=(4096, 511)))


class TestPaleLesions:
    @pytest.mark.parametrize("look", LOOKS)
    def test_lighter_than_the_tissue_and_still_tissue(self, look: str):
        for seed in range(3):
            plan = SlidePlan(label=1, size_px=SMALL, seed=(seed,), look=look, lesions="pale")
            rgb, lesions = make_slide(plan)
            tissue = tissue_mask(np.asarray(Image.fromarray(rgb).reduce(2)))
            lesion = np.any([_inside(lesion)[::2, ::2] for lesion in lesions], axis=0)
            light = rgb[::2, ::2].mean(axis=2)
            assert 1 <= len(lesions) <= 2
            assert light[lesion & tissue].mean() > light[tissue & ~lesion].mean()
            assert tissue[lesion].mean() > 0.5

    @pytest.mark.parametrize("seed", range(4))
    def test_label_decides_nothing_but_which_areas_are_lesions(self, seed: int):
        size_px = (2048, 1536)
        benign, malignant = (
            lay_out(size_px, True, diseased, np.random.default_rng(seed), pale=True) for diseased in (False, True)
        )
        assert benign.lesions == []
        assert not benign.mucin.any()
        assert 1 <= len(malignant.lesions) <= 2
        assert malignant.aggregates == benign.aggregates
        for name in ("depth_px", "across_px", "along_px", "tone", "lymphoid"):
            np.testing.assert_array_equal(getattr(malignant, name), getattr(benign, name))
        np.testing.assert_array_equal(np.maximum(malignant.mucin, malignant.oedema), benign.oedema)

    def test_sizes_at_the_default_size(self):
        lesions = lay_out((4096, 3072), True, True, np.random.default_rng(0), pale=True).lesions
        assert all(200 <= side <= 480 for lesion in lesions for side in (lesion.width_px, lesion.height_px))

    def test_unknown_kind(self):
        with pytest.raises(InputError, match="'dark'; choose from crowded, pale"):
            make_slide(SlidePlan(lesions="dark"))


class TestPlanCohort:
    @pytest.mark.parametrize("slides", [2, 11, 36, 51])
    def test_labels_balanced_and_patients_of_one_label(self, slides: int):
        plans = plan_cohort(slides, seed=slides, prefix="s")
        assert [plan.slide_id for plan in plans] == [f"s_{index:03d}" for index in range(slides)]
        assert Counter(plan.label for plan in plans) == {0: slides - slides // 2, 1: slides // 2}
        labels_of = {plan.patient_id: set() for plan in plans}
        for plan in plans:
            labels_of[plan.patient_id].add(plan.label)
        assert all(len(labels) == 1 for labels in labels_of.values())
        assert set(Counter(plan.patient_id for plan in plans).values()) <= {1, 2, 3}

    @pytest.mark.parametrize("seed", range(5))
    def test_faults(self, seed: int):
        plans = plan_cohort(12, seed)
        assert [plan.label for plan in plans if not plan.tissue] == [0]
        assert [plan.label for plan in plans if plan.truncated] == [1]
        assert [plan.label for plan in plans if plan.mpp is None] == [0]

    @pytest.mark.parametrize("plans", [plan_cohort(11), plan_cohort(36, faults=False)], ids=["small", "off"])
    def test_no_faults(self, plans: list[SlidePlan]):
        assert all(plan.tissue and plan.mpp == 1.0 and not plan.truncated for plan in plans)

    @pytest.mark.parametrize("label", [0, 1])
    def test_both_labels_have_every_look_and_artefact(self, label: int):
        plans = [plan for plan in plan_cohort(36, faults=False) if plan.label == label]
        assert {name for plan in plans for name in plan.artefacts} == set(ARTEFACTS)
        assert sorted(Counter(plan.look for plan in plans).values()) == [3, 3, 4, 4, 4]

    @pytest.mark.parametrize("wrong", [{"slides": 1}, {"slides": 4, "seed": -1}, {"slides": 4, "prefix": "a/b"}])
    def test_wrong_input(self, wrong):
        with pytest.raises(InputError, match="give at least 2 slides"):
            plan_cohort(**wrong)


class TestWriteSlide:
    def test_truncated_file_is_shorter_and_refused(self, tmp_path: Path):
        plan = SlidePlan("whole", label=1, size_px=TINY)
        lesions = write_slide(plan, tmp_path)
        assert write_slide(replace(plan, slide_id="cut", truncated=True), tmp_path) == [
            replace(lesion, slide_id="cut") for lesion in lesions
        ]
        whole, cut = ((tmp_path / f"{name}.tiff") for name in ("whole", "cut"))
        assert cut.stat().st_size == int(0.6 * whole.stat().st_size)
        with openslide.OpenSlide(whole) as slide:
            assert slide.dimensions == TINY
            assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(1.0)
        with pytest.raises(openslide.OpenSlideError), openslide.OpenSlide(cut) as slide:
            slide.read_region((0, 0), 0, TINY)

    def test_no_mpp(self, tmp_path: Path):
        write_slide(SlidePlan("bare", size_px=TINY, mpp=None), tmp_path)
        # The file says 25.4 dots per inch, libvips' word for unknown; no microscope has 1000 µm per pixel.
        assert open_slide(tmp_path / "bare.tiff").mpp is None


class TestMakeCohort:
    def test_same_bytes_whatever_the_number_of_workers(self, tmp_path: Path):
        for workers in (1, 2):
            make_cohort(tmp_path / str(workers), slides=3, seed=5, prefix="s", workers=workers, size_px=TINY)
        one, two = (_contents(tmp_path / name) for name in "12")
        assert sorted(one) == ["labels.csv", "lesions.csv"] + [f"slides/s_00{index}.tiff" for index in range(3)]
        assert one == two

    def test_tables_agree_with_the_plans(self, tmp_path: Path):
        make_cohort(tmp_path, slides=4, workers=1, size_px=TINY)
        plans = plan_cohort(4, size_px=TINY)
        rows = [f"{plan.slide_id},{plan.label},{plan.patient_id}" for plan in plans]
        assert (tmp_path / "labels.csv").read_text().split() == ["slide_id,label,patient_id", *rows]
        expected = {plan.slide_id: make_slide(plan)[1] for plan in plans if plan.label == 1}
        assert read_lesions(tmp_path / "lesions.csv") == expected

    def test_lesion_table_that_is_none(self, tmp_path: Path):
        path = tmp_path / "lesions.csv"
        with pytest.raises(InputError, match="no table of lesions"):
            read_lesions(path)
        path.write_text("slide_id,x0,y0\na,1,2\n")
        with pytest.raises(InputError, match="slide_id, x0, y0, width_px, height_px"):
            read_lesions(path)


class TestMain:
    def test_writes_a_cohort(self, tmp_path: Path):
        flags = "--slides 2 --seed 1 --prefix t --workers 1 --width 640 --height 512".split()
        assert main(["--out", str(tmp_path / "new"), *flags]) == 0
        assert (tmp_path / "new/slides/t_001.tiff").is_file()
        assert main(["--out", str(tmp_path / "pale"), "--lesions", "pale", *flags]) == 0
        assert read_lesions(tmp_path / "pale/lesions.csv") != read_lesions(tmp_path / "new/lesions.csv")

    @pytest.mark.parametrize(
        ("flags", "remedy"),
        [
            (["--slides", "two"], "is not a whole number"),
            (["--slides", "1"], "at least 2"),
            (["--workers", "0"], "at least 1"),
            (["--width", "100"], "at least 512"),
            (["--lesions", "dark"], "is not one of crowded, pale"),
            ([], "choose another"),
        ],
    )
    def test_wrong_input_is_one_sentence(self, flags: list[str], remedy: str, tmp_path: Path, capsys):
        (tmp_path / "mine.txt").write_text("precious")
        assert main(["--out", str(tmp_path), *flags]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert remedy in message
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def _inside(lesion: Lesion) -> np.ndarray:
    y0, x0 = np.indices(SMALL[::-1])
    return Ellipse(lesion.x0, lesion.y0, lesion.width_px, lesion.height_px).reach(x0 + 0.5, y0 + 0.5) <= 1


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
