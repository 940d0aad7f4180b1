"""Building a prototype set from font files, and the set that ships."""

import csv
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from helpers import main
from PIL import Image

from hlf_np.data.fonts.prototypes import LETTERS, SIDE
from hlf_np.data.fonts.rendering import (
    LETTER_EXTENT,
    build_prototypes,
    face_count,
    find_files,
    read_faces,
    rejection_summary,
    render_letters,
    write_prototypes,
)
from hlf_np.data.fonts.selection import (
    Face,
    Rejection,
    family_key,
    reject_crowded,
    reject_duplicates,
    reject_faint,
    reject_lookalike_letters,
    reject_misread,
    select_faces,
    split_family,
)
from hlf_np.report.figures.sheets import contact_sheet, grid
from hlf_np.support.errors import UserError

SOURCES = Path(matplotlib.get_data_path()) / "fonts/ttf"
SHIPPED = Path(__file__).parents[1] / "fonts"
TEXT_FACES = ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "STIXGeneral.ttf", "cmr10.ttf", "cmtt10.ttf"]


def directory_of(parent: Path, names: list[str]) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(SOURCES / name, parent)
    return parent


@pytest.fixture(scope="module")
def text_faces(tmp_path_factory: pytest.TempPathFactory) -> list[Face]:
    return read_faces([directory_of(tmp_path_factory.mktemp("text"), TEXT_FACES)])[0]


def reasons_by_file(rejected: list[Rejection]) -> dict[str, str]:
    return {rejection.path.name: rejection.reason for rejection in rejected}


# Rendering


@pytest.mark.parametrize("name", ["DejaVuSans.ttf", "DejaVuSerif-BoldItalic.ttf", "cmtt10.ttf"])
def test_letters_are_centred_and_fill_one_common_extent(name: str) -> None:
    images = render_letters((SOURCES / name).read_bytes())
    assert images.shape == (10, SIDE, SIDE)
    assert images.dtype == np.uint8
    extents = []
    for image in images:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        extents += [np.ptp(rows) + 1, np.ptp(columns) + 1]
        assert abs(rows[0] + rows[-1] - (SIDE - 1)) <= 1
        assert abs(columns[0] + columns[-1] - (SIDE - 1)) <= 1
    assert LETTER_EXTENT <= max(extents) <= LETTER_EXTENT + 2  # a stroke's edge may touch one more pixel on either side
    assert images.max() == 255


def test_letters_keep_their_relative_sizes() -> None:
    images = render_letters((SOURCES / "DejaVuSans.ttf").read_bytes())
    widths = {letter: np.ptp(np.flatnonzero(image.any(axis=0))) for letter, image in zip(LETTERS, images, strict=True)}
    assert widths["I"] < widths["J"] < widths["E"] < widths["D"]


def test_a_letter_has_the_grey_area_of_its_outline() -> None:
    upright = render_letters((SOURCES / "DejaVuSans.ttf").read_bytes())[LETTERS.index("I")] / 255
    rows, columns = upright.sum(axis=0).max(), upright.sum(axis=1).max()
    # The letter I is a filled rectangle, so its ink is its height times its width.
    np.testing.assert_allclose(upright.sum(), rows * columns, rtol=0.02)


# Families


@pytest.mark.parametrize(
    ("name", "family", "style"),
    [
        ("Lato", "Lato", ""),
        ("Lato Black", "Lato", "Black"),
        ("LibreCaslonText", "LibreCaslon", "Text"),
        ("LM Roman 10", "LM", "Roman 10"),
        ("B612", "B612", ""),
        ("Black Ops", "Black Ops", ""),
    ],
)
def test_weights_and_sizes_are_no_part_of_a_family(name: str, family: str, style: str) -> None:
    assert split_family(name) == (family, style)


def test_spelling_does_not_make_a_family() -> None:
    assert family_key("EB Garamond") == family_key("EBGaramond") != family_key("Garamond Libre")


# Rules


def test_text_faces_pass(text_faces: list[Face]) -> None:
    kept, rejected = select_faces(text_faces, per_family=8)
    assert rejected == []
    assert {face.path.name for face in kept} == set(TEXT_FACES)


def test_faces_without_letters_are_rejected(tmp_path: Path) -> None:
    symbols = ["STIXSizOneSymReg.ttf", "STIXNonUni.ttf", "cmex10.ttf", "LastResortHE-Regular.ttf"]
    kept, rejected = build_prototypes([directory_of(tmp_path, [*TEXT_FACES, *symbols])])
    assert {face.path.name for face in kept} == set(TEXT_FACES)
    assert reasons_by_file(rejected) == {
        "STIXSizOneSymReg.ttf": "the letters are blank",
        "STIXNonUni.ttf": "the letters are blank",
        "cmex10.ttf": "too faint",
        "LastResortHE-Regular.ttf": "A and B look alike",
    }


def test_the_box_for_a_missing_letter_is_not_taken_for_it(tmp_path: Path) -> None:
    font = pytest.importorskip("fontTools.ttLib").TTFont(SOURCES / "DejaVuSans.ttf")
    for table in font["cmap"].tables:
        table.cmap.pop(ord("G"), None)
    font.save(tmp_path / "without_g.ttf")
    found, rejected = read_faces([tmp_path])
    assert found == []
    assert rejected[0].reason == "letter G is missing"


def test_hairlines_are_too_faint(text_faces: list[Face]) -> None:
    face = text_faces[0]
    pale = replace(face, images=(face.images * 0.45).astype(np.uint8))
    dotted = np.zeros_like(face.images)
    dotted[:, ::10, ::10] = 255
    sparse = replace(face, images=dotted)
    assert reject_faint([face, pale, sparse]) == [None, "too faint", "too faint"]


def test_two_letters_alike_are_named(text_faces: list[Face]) -> None:
    face = text_faces[0]
    images = face.images.copy()
    images[LETTERS.index("G")] = images[LETTERS.index("C")]
    assert reject_lookalike_letters([face, replace(face, images=images)]) == [None, "C and G look alike"]


def test_the_first_of_two_near_duplicates_stays(text_faces: list[Face]) -> None:
    first, other = text_faces[0], text_faces[-1]
    images = (first.images * 0.95).astype(np.uint8)
    assert reject_duplicates([first, other, replace(first, images=images)]) == [None, None, f"looks like {first.name}"]


def test_a_regular_face_is_kept_before_a_bold_twin(text_faces: list[Face]) -> None:
    (regular,) = (face for face in text_faces if face.path.name == "DejaVuSans.ttf")
    twin = replace(regular, style="Bold", sha256="0" * 64)
    assert select_faces([twin, regular], per_family=8)[0] == [regular]


def test_letters_that_stand_for_others_are_misread(text_faces: list[Face], tmp_path: Path) -> None:
    italics, _ = read_faces([directory_of(tmp_path, ["STIXGeneralItalic.ttf", "STIXGeneralBolIta.ttf"])])
    cipher = [replace(face, family="Cipher", images=np.roll(face.images, 1, axis=0)) for face in italics]
    reasons = reject_misread([*text_faces, *cipher])
    assert reasons[:-2] == [None] * len(text_faces)
    # Two such faces are no proof for each other, as they are one family.
    assert all(re.fullmatch(r"\d+ of 10 letters mistaken for others", reason or "") for reason in reasons[-2:])


def test_a_single_family_cannot_be_misread(text_faces: list[Face]) -> None:
    assert reject_misread(text_faces[:1]) == [None]


def test_known_faces_read_a_single_one(text_faces: list[Face], shipped: dict[str, np.ndarray]) -> None:
    cipher = [replace(face, images=np.roll(face.images, 1, axis=0)) for face in text_faces]
    assert reject_misread(text_faces, shipped["images"]) == [None] * len(text_faces)
    for face in cipher:
        assert re.fullmatch(
            r"\d+ of 10 letters mistaken for others", reject_misread([face], shipped["images"])[0] or ""
        )


def test_a_family_keeps_its_most_varied_faces(text_faces: list[Face]) -> None:
    plain = text_faces[0]
    near = replace(plain, images=(plain.images * 0.9).astype(np.uint8))
    far = replace(plain, images=np.roll(plain.images, 3, axis=2))
    reasons = reject_crowded([plain, near, far], 2)
    assert reasons == [None, "more than 2 faces of its family", None]
    assert reject_crowded([plain, near, far], 3) == [None] * 3


# Building


def test_the_order_depends_on_contents_alone(tmp_path: Path) -> None:
    directory_of(tmp_path / "a", TEXT_FACES[:3])
    directory_of(tmp_path / "b", TEXT_FACES[3:])
    forwards, _ = build_prototypes([tmp_path / "a", tmp_path / "b"])
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for position, name in enumerate(reversed(TEXT_FACES)):
        shutil.copy(SOURCES / name, renamed / f"{position}.ttf")
    backwards, _ = build_prototypes([renamed])
    assert [face.sha256 for face in forwards] == [face.sha256 for face in backwards]
    assert [face.sha256 for face in forwards] == sorted(face.sha256 for face in forwards)


def test_a_number_of_faces_takes_the_first(tmp_path: Path) -> None:
    directory = directory_of(tmp_path, TEXT_FACES)
    assert [f.name for f in build_prototypes([directory], faces=2)[0]] == [
        f.name for f in build_prototypes([directory])[0]
    ][:2]


def test_the_limit_per_family_holds(tmp_path: Path) -> None:
    kept, rejected = build_prototypes([directory_of(tmp_path, TEXT_FACES)], per_family=1)
    assert [face.path.name for face in kept if face.family == "DejaVu Sans"] == ["DejaVuSans.ttf"]
    assert reasons_by_file(rejected) == {"DejaVuSans-Bold.ttf": "more than 1 faces of its family"}


def test_links_to_folders_are_followed_once_each(tmp_path: Path) -> None:
    fonts = directory_of(tmp_path / "store" / "fonts", TEXT_FACES[:2])
    profile = tmp_path / "profile" / "share"
    profile.mkdir(parents=True)
    for name, target in {"a": fonts, "b": fonts, "circle": profile.parent, "self": Path("self")}.items():
        (profile / name).symlink_to(target)
    (profile / "self.ttf").symlink_to("self.ttf")
    (fonts / "circle").symlink_to(fonts)
    found = find_files([tmp_path / "profile", profile])
    assert found == [profile / "a" / name for name in sorted(TEXT_FACES[:2])]
    assert find_files([profile / "b"]) == [profile / "b" / name for name in sorted(TEXT_FACES[:2])]


def test_excluded_files_are_left_out(tmp_path: Path) -> None:
    kept, rejected = build_prototypes([directory_of(tmp_path, TEXT_FACES)], excluded={"cmr10.ttf"})
    assert "cmr10.ttf" not in {face.path.name for face in kept}
    assert reasons_by_file(rejected) == {"cmr10.ttf": "excluded by name"}


@pytest.mark.parametrize("length", [0, 3, 100, 5000, 100_000])
def test_truncated_files_are_rejected_not_fatal(tmp_path: Path, length: int) -> None:
    directory = directory_of(tmp_path, TEXT_FACES)
    (directory / "broken.ttf").write_bytes((SOURCES / "DejaVuSans.ttf").read_bytes()[:length])
    kept, rejected = build_prototypes([directory])
    assert len(kept) == len(TEXT_FACES)
    assert set(reasons_by_file(rejected)) == {"broken.ttf"}


def test_damaged_bytes_never_crash(tmp_path: Path) -> None:
    data = bytearray((SOURCES / "cmr10.ttf").read_bytes())
    generator = np.random.default_rng(0)
    for copy in range(30):
        damaged = data.copy()
        for position in generator.integers(12, len(data), 40):
            damaged[position] = generator.integers(256)
        (tmp_path / f"{copy}.ttf").write_bytes(damaged)
    found, rejected = read_faces([tmp_path])
    assert len(found) + len(rejected) == 30


def test_a_broken_file_is_not_replaced_by_a_system_font(tmp_path: Path) -> None:
    (tmp_path / "DejaVuSans.ttf").write_bytes(b"not a font")
    found, rejected = read_faces([tmp_path])
    assert found == []
    assert rejected[0].reason.startswith("cannot be read as a font")


def test_every_face_of_a_collection_counts() -> None:
    assert face_count(b"ttcf\x00\x01\x00\x00\x00\x00\x00\x05") == 5
    assert face_count(b"ttcf\x00\x01\x00\x00\xff\xff\xff\xff") == 256
    assert face_count(b"OTTO\x00\x01\x00\x00\x00\x00\x00\x05") == 1


# Mistakes


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent is not a directory"):
        build_prototypes([tmp_path / "absent"])


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a directory"):
        build_prototypes([tmp_path / "file"])


def test_a_directory_without_fonts_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no font files in {tmp_path}"):
        build_prototypes([tmp_path])


def test_a_directory_of_symbols_alone_has_no_usable_face(tmp_path: Path) -> None:
    directory = directory_of(tmp_path, ["STIXSizOneSymReg.ttf", "STIXNonUni.ttf", "LastResortHE-Regular.ttf"])
    reasons = r"\(2: the letters are blank, 1: A and B look alike\)"
    with pytest.raises(UserError, match=f"has usable letters A to J {reasons}: name a directory of Latin text fonts"):
        build_prototypes([directory])


def test_reasons_are_counted_the_commonest_first() -> None:
    rejected = [Rejection(Path("x"), 0, reason) for reason in "abbcccdddd"]
    assert rejection_summary(rejected, 2) == ["4: d", "3: c", "3: for other reasons"]
    assert rejection_summary(rejected, 4) == ["4: d", "3: c", "2: b", "1: a"]
    assert rejection_summary([]) == []


def test_too_many_faces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"100 faces were requested, but .* yields 6"):
        build_prototypes([directory_of(tmp_path, TEXT_FACES)], faces=100)


@pytest.mark.parametrize("counts", [{"faces": 0}, {"per_family": 0}])
def test_counts_below_one_are_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        build_prototypes([tmp_path], **counts)  # type: ignore[arg-type]


def test_an_output_that_cannot_be_written_is_named(text_faces: list[Face], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_prototypes(text_faces, tmp_path / "file" / "prototypes.npz")


# Writing


def test_what_is_written_is_what_was_built(text_faces: list[Face], tmp_path: Path) -> None:
    path, manifest = tmp_path / "new" / "set.npz", tmp_path / "set.csv"
    write_prototypes(
        text_faces, path, manifest=manifest, extra_columns=lambda face: {"size": str(face.path.stat().st_size)}
    )
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["images"], [face.images for face in text_faces])
        assert archive["classes"].tolist() == list(LETTERS)
        assert archive["names"].tolist() == [face.name for face in text_faces]
    with manifest.open() as table:
        rows = list(csv.DictReader(table))
    assert list(rows[0]) == ["index", "family", "style", "size", "file", "sha256"]
    assert [row["file"] for row in rows] == [face.path.name for face in text_faces]
    assert [int(row["size"]) for row in rows] == [os.path.getsize(SOURCES / row["file"]) for row in rows]


def test_the_command_line_says_what_it_built_and_what_it_left_out(tmp_path: Path) -> None:
    fonts = directory_of(tmp_path / "mine", ["DejaVuSans.ttf", "DejaVuSerif.ttf", "STIXNonUni.ttf"])
    code, output, _ = main("fonts", "build", fonts, "--out", tmp_path / "mine.npz")
    assert code == 0
    assert f"Saved {tmp_path / 'mine.npz'}: 2 faces of 2 families\n" in output
    assert "left out 1: the letters are blank\n" in output  # those of symbols alone
    with np.load(tmp_path / "mine.npz") as built:
        assert built["images"].shape == (2, 10, 28, 28)


def test_two_text_fonts_that_misread_each_other_are_kept(tmp_path: Path) -> None:
    fonts = directory_of(tmp_path / "mine", ["DejaVuSans-Bold.ttf", "STIXGeneral.ttf"])
    with pytest.raises(UserError, match=r"\(1: 3 of 10 letters mistaken for others, 1: 5 of 10"):
        build_prototypes([fonts])
    code, output, errors = main("fonts", "build", fonts, "--out", tmp_path / "mine.npz")
    assert (code, output, errors) == (0, f"Saved {tmp_path / 'mine.npz'}: 2 faces of 2 families\n", "")


def test_writing_twice_gives_the_same_bytes(text_faces: list[Face], tmp_path: Path) -> None:
    write_prototypes(text_faces, tmp_path / "first.npz")
    write_prototypes(text_faces, tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()


# Sheets


def test_a_grid_places_every_image() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1) * 40 * np.ones((1, 1, 4, 5), np.uint8)
    sheet = np.asarray(grid(images, gap=2, background=7))
    assert sheet.shape == (2 + 2 * 6, 2 + 3 * 7)
    for row in range(2):
        for column in range(3):
            tile = sheet[2 + 6 * row :, 2 + 7 * column :][:4, :5]
            assert (tile == images[row, column]).all()
    assert (sheet == 7).sum() == sheet.size - images.size


def test_a_grid_of_numbers_is_clipped_and_enlarged() -> None:
    sheet = np.asarray(grid(np.array([-1.0, 0.5, 2.0]).reshape(1, 3, 1, 1), gap=0, scale=3))
    assert sheet.shape == (3, 9)
    assert sheet[1, 1::3].tolist() == [0, 128, 255]


def test_a_contact_sheet_shows_every_face_once(text_faces: list[Face]) -> None:
    images = np.stack([face.images for face in text_faces])
    sheet = np.asarray(contact_sheet(images, rows_per_column=4))
    assert sheet.shape[0] == 1 + 4 * (SIDE + 1)
    for i, (column, row) in enumerate([(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]):
        left = column * sheet.shape[1] // 2 + sheet.shape[1] // 2 - 10 * (SIDE + 1)
        tile = sheet[1 + row * (SIDE + 1) :, left:][:SIDE, :SIDE]
        np.testing.assert_array_equal(tile, images[i, 0])


# The shipped set


@pytest.fixture(scope="module")
def shipped() -> dict[str, np.ndarray]:
    with np.load(SHIPPED / "prototypes.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def manifest() -> list[dict[str, str]]:
    with (SHIPPED / "MANIFEST.csv").open() as table:
        return list(csv.DictReader(table))


@pytest.fixture(scope="module")
def shipped_faces(shipped: dict[str, np.ndarray], manifest: list[dict[str, str]]) -> list[Face]:
    return [
        Face(Path(row["file"]), 0, row["family"], row["style"], row["sha256"], images)
        for row, images in zip(manifest, shipped["images"], strict=True)
    ]


def test_the_shipped_set_has_1000_faces_of_ten_letters(shipped: dict[str, np.ndarray]) -> None:
    assert set(shipped) == {"images", "classes", "names"}
    assert shipped["images"].shape == (1000, 10, SIDE, SIDE)
    assert shipped["images"].dtype == np.uint8
    assert shipped["classes"].dtype == "<U1"
    assert shipped["classes"].tolist() == list(LETTERS)


def test_the_manifest_agrees_row_by_row(shipped: dict[str, np.ndarray], manifest: list[dict[str, str]]) -> None:
    assert [int(row["index"]) for row in manifest] == list(range(1000))
    assert [f"{row['family']} {row['style']}".strip() for row in manifest] == shipped["names"].tolist()
    for row in manifest:
        assert all(row[column] for column in ("family", "licence", "package", "version", "file"))
        assert re.fullmatch("[0-9a-f]{64}", row["sha256"])


def test_no_shipped_face_has_a_licence_that_extends_to_what_is_made_with_a_font(manifest: list[dict[str, str]]) -> None:
    assert {row["licence"] for row in manifest} <= {
        "OFL-1.1", "Apache-2.0", "MIT", "BSD-2-clause", "BSD-3-clause", "CC0-1.0", "public domain", "Bitstream-Vera",
        "ParaType-Free-Font-License", "GUST-Font-License", "LPPL", "GPL with font exception", "free with attribution",
        "free without conditions",
    }  # fmt: skip


def test_the_shipped_order_is_that_of_the_digests(manifest: list[dict[str, str]]) -> None:
    digests = [row["sha256"] for row in manifest]
    assert digests == sorted(set(digests))


def test_no_family_dominates(manifest: list[dict[str, str]]) -> None:
    families = Counter(family_key(row["family"]) for row in manifest)
    assert len(families) >= 250
    assert max(families.values()) <= 8
    assert len({family_key(row["family"]) for row in manifest[:25]}) >= 20


def test_the_shipped_faces_obey_the_rules(shipped_faces: list[Face]) -> None:
    for rule in (reject_faint, reject_lookalike_letters, reject_duplicates):
        assert rule(shipped_faces) == [None] * 1000, rule.__name__


def test_the_shipped_letters_are_readable(shipped_faces: list[Face]) -> None:
    # Each face was judged among all candidates; among the 1000 that stayed, its neighbours are fewer.
    assert sum(reason is not None for reason in reject_misread(shipped_faces)) <= 20


def test_faces_excluded_by_eye_are_not_shipped(manifest: list[dict[str, str]]) -> None:
    with (SHIPPED / "EXCLUDED.csv").open() as table:
        excluded = list(csv.DictReader(table))
    assert all(row["reason"] for row in excluded)
    assert {row["file"] for row in excluded}.isdisjoint(row["file"] for row in manifest)


def test_the_contact_sheet_shows_the_shipped_set(shipped: dict[str, np.ndarray]) -> None:
    with Image.open(SHIPPED / "contact_sheet.png") as sheet:
        np.testing.assert_array_equal(np.asarray(sheet), np.asarray(contact_sheet(shipped["images"], 100)))
