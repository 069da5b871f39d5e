"""Each slide once, under one name, or a sentence that says what is wrong."""

import shutil
from pathlib import Path

import pytest

from tiling.errors import InputError
from tiling.sources import SlideRef, find_slides


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folder_is_searched_in_the_order_of_names(tmp_path: Path) -> None:
    touch(tmp_path / "b.svs", tmp_path / "a.NDPI", tmp_path / "sub" / "c.png", tmp_path / "notes.txt")
    touch(tmp_path / ".hidden.svs", tmp_path / ".cache" / "d.svs")
    assert [slide.path.relative_to(tmp_path).as_posix() for slide in find_slides([tmp_path])] == [
        "a.NDPI", "b.svs", "sub/c.png",
    ]  # fmt: skip


def test_pixels_of_a_vms_slide_are_no_slides(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "a.vms", tmp_path / "x" / "a.jpg", tmp_path / "x" / "a_map2.jpg", tmp_path / "y" / "b.jpg")
    assert [slide.path.name for slide in find_slides([tmp_path])] == ["a.vms", "b.jpg"]


def test_table(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text("slide_id,path,mpp,patient_id\nx,sub/a b.svs,0.25,p1\ny,/data/c.svs,,\n")
    assert find_slides([tmp_path / "slides.csv"]) == [
        SlideRef("x", tmp_path / "sub" / "a b.svs", 0.25, "p1"),
        SlideRef("y", Path("/data/c.svs"), None, None),
    ]


def test_blanks_make_no_other_patient(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text("slide_id, path, patient_id \nx,a.svs, p 1 \ny,b.svs,  \n")
    assert [slide.patient_id for slide in find_slides([tmp_path / "slides.csv"])] == ["p 1", None]


def test_table_with_unusual_names(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text('slide_id,path\n"it\'s, ""so""",a.svs\nÄß 你,b.svs\n', encoding="utf-8")
    assert [slide.slide_id for slide in find_slides([tmp_path / "slides.csv"])] == ['it\'s, "so"', "Äß 你"]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder: .*nowhere"):
        find_slides([tmp_path / "nowhere"])


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no slide \(looked for \.avif .*\.svs"):
        find_slides([tmp_path])


def test_two_slides_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "sub" / "a.tiff")
    with pytest.raises(InputError, match=r"two slides have the name 'a': .*a\.svs' and .*sub/a\.tiff'; rename one"):
        find_slides([tmp_path])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("slide_id,file\na,b\n", "lacks the column path; it has slide_id, file"),
        ("", "lacks the column path and slide_id; it has none"),
        ("slide_id,path\n", "has no rows"),
        ("slide_id,path\na,\n", "row 2 .* has no path"),
        ("slide_id,path\na,a.svs\n,b.svs\n", "row 3 .* has the slide_id '', which cannot be the name of a file"),
        ("slide_id,path\n../a,a.svs\n", "row 2 .* has the slide_id '../a'"),
        ("slide_id,path,mpp\na,a.svs,fine\n", "row 2 .* has the mpp 'fine'; give µm per pixel"),
        ("slide_id,path,mpp\na,a.svs,-1\n", "row 2 .* has the mpp -1.0"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "slides.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        find_slides([tmp_path / "slides.csv"])


def test_table_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_bytes("slide_id,path\né,a.svs\n".encode("latin-1"))
    with pytest.raises(InputError, match="cannot read the slides table .* save it as CSV in UTF-8"):
        find_slides([tmp_path / "slides.csv"])


def test_table_as_spreadsheets_save_it(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_bytes(b"\xef\xbb\xbfslide_id,path\r\na,b.svs\r\n")
    assert find_slides([tmp_path / "slides.csv"]) == [SlideRef("a", tmp_path / "b.svs")]


def test_dicom_series_is_one_slide_with_the_name_of_its_folder(real_data: Path, tmp_path: Path) -> None:
    series = real_data / "slides_vendor" / "dicom_cmu1"
    slides = find_slides([series.parent])
    dicom = [slide for slide in slides if slide.path.suffix == ".dcm"]
    assert dicom == [SlideRef("dicom_cmu1", series / "level-0-frames-0-30.dcm")]
    assert find_slides(sorted(series.iterdir())) == dicom  # named one by one, it is still one slide
    # Beside another series its name is that of its first file.
    shutil.copytree(series, tmp_path / "both")
    shutil.copy(real_data / "slides_odd" / "boxes_0.dcm", tmp_path / "both")
    assert [slide.slide_id for slide in find_slides([tmp_path / "both"])] == ["boxes_0", "level-0-frames-0-30"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a\0b,a.svs,", r"row 2 .* has the slide_id 'a\\\\x00b', which cannot be the name of a file"),
        ("a,a\0.svs,", r"row 2 .* has the path 'a\\\\x00.svs', which cannot be that of a file"),
        ("a,a.svs," + "9" * 5000, "row 2 .* has the mpp inf"),
        ("a,a.svs," + "x" * 5000, "row 2 .* has the mpp 'x+…x+'; give µm per pixel"),
    ],
)
def test_rows_of_strangers(tmp_path: Path, row: str, sentence: str) -> None:
    (tmp_path / "slides.csv").write_text(f"slide_id,path,mpp\n{row}\n")
    with pytest.raises(InputError, match=sentence) as caught:
        find_slides([tmp_path / "slides.csv"])
    assert len(str(caught.value)) < 500


def test_two_slides_of_one_long_name(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text(f"slide_id,path\na,{'9' * 5000}\na,b.svs\n")
    with pytest.raises(InputError, match="two slides have the name 'a'") as caught:
        find_slides([tmp_path / "slides.csv"])
    assert len(str(caught.value)) < 1000
