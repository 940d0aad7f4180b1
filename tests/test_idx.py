"""MNIST and its relatives: whatever the files hold comes out, or one clear line."""

import gzip
import hashlib
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import peak
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from idx_makers import TYPES, idx_bytes, part_files, random_part, write_files, write_zip

from hlf_np import UserError
from hlf_np.data import load_idx
from hlf_np.data.formats import idx

SPLITS = {  # the classes of EMNIST's splits, in the order of their labels
    "balanced": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",
    "byclass": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
    "bymerge": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",
    "digits": "0123456789",
    "letters": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "mnist": "0123456789",
}
TRAIN, TEST = random_part(30), random_part(20, seed=1)
FILES = part_files("train", *TRAIN) | part_files("t10k", *TEST)


def refused(path, *words, name=None):
    """What is said about a dataset that cannot be loaded: one line."""
    with pytest.raises(UserError) as caught:
        load_idx(path, name)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def assert_holds(split, images, labels):
    assert split.images.dtype == np.float32
    assert split.images.flags.c_contiguous
    assert split.labels.dtype == np.int64
    assert split.codes is None
    np.testing.assert_array_equal(split.images, (images.astype(np.float32) / np.float32(255))[..., None])
    np.testing.assert_array_equal(split.labels, labels)


# --- what is loaded -------------------------------------------------------------------------------------------


@given(
    counts=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    suffix=st.sampled_from(["", ".gz"]),
    archive=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_images_and_labels_are_those_of_the_files(tmp_path_factory, counts, shape, suffix, archive, seed):
    random, files, parts = np.random.default_rng(seed), {}, {}
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        parts[prefix] = random.integers(0, 256, (count, *shape)), random.integers(0, 10, count)
        files |= part_files(prefix, *parts[prefix], suffix)
    place = tmp_path_factory.mktemp("data")
    path = write_zip(place / "any.zip", files) if archive else write_files(place / "mnist", files)
    data = load_idx(path, "mnist")
    assert (data.name, data.classes) == ("mnist", tuple("0123456789"))
    assert_holds(data.train, *parts["train"])
    assert_holds(data.test, *parts["t10k"])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_split_of_emnist_stands_upright_with_its_classes(tmp_path, split, suffix):
    first = 1 if split == "letters" else 0
    count = 2 * len(SPLITS[split])
    files, parts = {}, {}
    for part in ("train", "test"):
        images, labels = parts[part] = random_part(count, len(SPLITS[split]), seed=len(files), first_label=first)
        files |= part_files(f"emnist-{split}-{part}", images, labels, suffix)
    data = load_idx(write_files(tmp_path, files))
    assert (data.name, "".join(data.classes)) == (f"emnist-{split}", SPLITS[split])
    for part, loaded in (("train", data.train), ("test", data.test)):
        images, labels = parts[part]
        assert_holds(loaded, images.transpose(0, 2, 1), labels.astype(int) - first)
    assert set(data.train.labels.tolist()) == set(range(len(data.classes)))


def nist(splits, suffix=".gz"):
    files = {}
    for number, split in enumerate(splits):
        for part in ("train", "test"):
            made = random_part(40, 10, seed=number, first_label=1 if split == "letters" else 0)
            files |= part_files(f"emnist-{split}-{part}", *made, suffix)
    return files | {"emnist-digits-mapping.txt": b"0 48\n"}


@pytest.mark.parametrize("place", ["archive", "folder of the archive", "unpacked", "unpacked flat"])
def test_nists_archive_gives_the_split_that_is_named_or_the_papers(tmp_path, place):
    files = nist(SPLITS)
    path = {
        "archive": lambda: write_zip(tmp_path / "gzip.zip", files),
        "folder of the archive": lambda: write_zip(tmp_path / "folder" / "gzip.zip", files).parent,
        "unpacked": lambda: write_files(tmp_path, {f"gzip/{name}": content for name, content in files.items()}),
        "unpacked flat": lambda: write_files(tmp_path, files),
    }[place]()
    assert load_idx(path).name == "emnist-digits"
    for number, split in enumerate(SPLITS):
        for name in (f"emnist-{split}", f"EMNIST_{split}"):
            data = load_idx(path, name)
            assert data.name == f"emnist-{split}"
            images, labels = random_part(40, 10, seed=number, first_label=split == "letters")
            assert_holds(data.test, images.transpose(0, 2, 1), labels.astype(int) - (split == "letters"))


def test_a_dataset_that_is_not_there_is_named_with_those_that_are(tmp_path):
    refused(
        write_files(tmp_path / "a", nist(["letters"])),
        "contains emnist-letters instead of emnist-digits",
        name="emnist-digits",
    )
    refused(
        write_files(tmp_path / "b", nist(["letters", "mnist"])),
        "contains emnist-letters, emnist-mnist instead of emnist-digits",
    )
    refused(write_files(tmp_path / "c", FILES), "instead of emnist-digits", name="emnist-digits")
    for name in ("emnist-words", "fonts", "", "a b", "../x"):
        refused(tmp_path / "c", "cannot be named", name=name)


@pytest.mark.parametrize("rename", ["raw/{}", "gzip/{}", "dots"])
def test_files_are_found_where_and_as_other_programs_leave_them(tmp_path, rename):
    files = {name.replace("-idx", ".idx") if rename == "dots" else rename.format(name): FILES[name] for name in FILES}
    assert_holds(load_idx(write_files(tmp_path, files)).train, *TRAIN)


def test_names_come_from_the_content_or_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "CHECKSUMS", published("fashion-mnist"))
    data = load_idx(write_files(tmp_path / "download", FILES))
    assert (data.name, data.classes[0], data.classes[9], len(data.classes)) == (
        *("fashion-mnist", "T-shirt/top", "Ankle boot"),
        10,
    )
    monkeypatch.undo()
    for folder, name in {"fashion-mnist": "fashion-mnist", "My  KMNIST!": "my-kmnist", "fonts": "idx"}.items():
        assert load_idx(write_files(tmp_path / folder, FILES)).name == name
    other = part_files("train", *random_part(30, 14)) | part_files("t10k", *TEST)
    assert load_idx(write_files(tmp_path / "own", other)).classes == tuple(map(str, range(14)))


def test_complete_files_go_before_noted_parts_of_them(tmp_path):
    files = part_files("train-first10", *random_part(10)) | FILES
    assert_holds(load_idx(write_files(tmp_path, files)).train, *TRAIN)


# --- a single part --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["test", "train"])
def test_a_fifth_of_a_single_part_serves_to_test(tmp_path, part):
    images = np.arange(100, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)  # each tells its number
    labels = np.repeat(np.arange(1, 11), 10)  # sorted, as in EMNIST's letters
    files = part_files(f"emnist-letters-{part}-first100", images, labels)
    first, again = load_idx(write_files(tmp_path / "a", files)), load_idx(write_files(tmp_path / "b", files))
    np.testing.assert_array_equal(first.train.images, again.train.images)
    assert (len(first.train), len(first.test)) == (80, 20)
    numbers = [np.rint(split.images[:, 0, 0, 0] * 255).astype(int) for split in (first.train, first.test)]
    assert sorted(np.concatenate(numbers)) == list(range(100))
    for found, split in zip(numbers, (first.train, first.test), strict=True):
        np.testing.assert_array_equal(split.labels, labels[found] - 1)
        assert len(np.unique(split.labels)) > 7  # of all over the file
    assert first.classes == tuple(SPLITS["letters"])  # also those without an image


def test_too_few_images_for_two_parts_are_refused(tmp_path):
    refused(write_files(tmp_path, part_files("train", *random_part(4))), "4 images", "too few to train and to test")


# --- what is refused ------------------------------------------------------------------------------------------


def test_missing_datasets_come_with_a_place_to_get_them(tmp_path):
    assert "gzip.zip from https://www.nist.gov" in refused(tmp_path / "data", name="emnist-digits")
    assert "dataset-fashion-mnist" in refused(tmp_path / "fashion")
    assert "/usr/share/datasets/fashion-mnist" in refused(tmp_path / "data", name="Fashion_MNIST")
    assert "into a folder" in refused(tmp_path / "mnist")
    refused(tmp_path / ("x" * 300), "there is no")
    refused(tmp_path, "holds no IDX files")
    (tmp_path / "file").write_text("neither")
    refused(tmp_path / "file", "neither a folder nor a zip archive")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_companion_is_named(tmp_path, name):
    refused(write_files(tmp_path, {other: FILES[other] for other in FILES if other != name}), "without its")


@pytest.mark.parametrize(
    ("labels", "name", "words"),
    [
        ([0, 1, 26], "emnist-letters", ("has labels 0 to 26, those of emnist-letters are 1 to 26",)),
        ([1, 27], "emnist-letters", ("1 to 27",)),
        ([0, 10], "emnist-digits", ("0 to 10, those of emnist-digits are 0 to 9",)),
        ([62, 61], "emnist-byclass", ("61 to 62",)),
        ([47], "emnist-balanced", ("47 to 47",)),
        ([10], "mnist", ("10 to 10",)),
    ],
)
def test_labels_that_a_dataset_has_not_are_refused(tmp_path, labels, name, words):
    images = np.zeros((len(labels), 2, 2), np.uint8)
    prefix = f"{name}-" if name.startswith("emnist") else ""
    files = part_files(f"{prefix}train", images, np.array(labels)) | part_files(f"{prefix}test", images[:1], np.ones(1))
    refused(write_files(tmp_path, files), *words, name=name)


def published(name):
    """FILES as if they were a published dataset."""
    contents = {part: [hashlib.sha256(idx_bytes(array)).hexdigest() for array in made] for part, made in (
        ("train", TRAIN), ("test", TEST))}  # fmt: skip
    return {(name, "train"): (30, *contents["train"]), (name, "test"): (20, *contents["test"])}


@given(name=st.sampled_from(sorted(FILES)), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_of_a_published_dataset_is_noticed(tmp_path_factory, monkeypatch, name, where, bit):
    monkeypatch.setattr(idx, "CHECKSUMS", published("mnist"))
    content = bytearray(FILES[name])
    content[int(where * len(content))] ^= 1 << bit
    folder = write_files(tmp_path_factory.mktemp("data") / "mnist", FILES | {name: bytes(content)})
    refused(folder, name)


def test_published_datasets_pass_and_other_numbers_of_images_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "CHECKSUMS", published("mnist"))
    assert load_idx(write_files(tmp_path / "a" / "mnist", FILES)).name == "mnist"
    fewer = part_files("train", TRAIN[0][:7], TRAIN[1][:7]) | part_files("t10k", TEST[0][:5], TEST[1][:5])
    assert len(load_idx(write_files(tmp_path / "b" / "mnist", fewer)).train) == 7
    other = part_files("train", *random_part(30, seed=5)) | part_files("t10k", *TEST)
    refused(write_files(tmp_path / "c", other), "is not the published file of mnist", "another name", name="mnist")
    assert load_idx(tmp_path / "c", "kmnist").name == "kmnist"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_cut_short_anywhere_or_continued_are_refused(tmp_path, name, suffix):
    files = part_files("train", *TRAIN, suffix) | part_files("t10k", *TEST, suffix)
    content = files[name + suffix]
    lengths = {*range(min(len(content), 40)), *range(0, len(content), 37), len(content) - 1}
    for length in sorted(lengths):
        refused(write_files(tmp_path, files | {name + suffix: content[:length]}), name)
    refused(write_files(tmp_path, files | {name + suffix: content + b"x"}), name)


@given(
    name=st.sampled_from(sorted(FILES)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=4),
    archive=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_compressed_files_with_flipped_bits_are_refused_or_unharmed(tmp_path_factory, name, flips, archive):
    """Gzip has bits that mean nothing, such as the time; all others are covered by its checksum."""
    files = part_files("train", *TRAIN, ".gz") | part_files("t10k", *TEST, ".gz")
    place = tmp_path_factory.mktemp("data")
    path = write_zip(place / "gzip.zip", files) if archive else write_files(place / "mnist", files)
    damaged = path if archive else path / f"{name}.gz"
    content = bytearray(damaged.read_bytes())
    for where, bit in flips:
        content[int(where * len(content))] ^= 1 << bit
    damaged.write_bytes(content)
    data = loaded(path)
    if data and len(data.train) == 30 and len(data.test) == 20:  # in an archive, a file may be lost by its name
        assert_holds(data.train, *TRAIN)
        assert_holds(data.test, *TEST)


def loaded(path):
    """A dataset, or None where it is refused as it should be."""
    try:
        return load_idx(path, "mnist")
    except UserError:
        return None


headers = st.one_of(
    st.binary(max_size=24),
    st.builds(
        lambda kind, sizes: struct.pack(f">BBBB{len(sizes)}I", 0, 0, kind, len(sizes), *sizes),
        st.sampled_from([*TYPES.values(), 0, 10, 255]),
        st.lists(st.sampled_from([0, 1, 2, 8, 28, 255, 2**16, 2**31, 2**32 - 1]), min_size=1, max_size=5),
    ),
)


@given(
    name=st.sampled_from(sorted(FILES)),
    header=headers,
    rest=st.binary(max_size=60),
    suffix=st.sampled_from(["", ".gz"]),
)
@example("t10k-labels-idx1-ubyte", struct.pack(">BBBBI", 0, 0, 8, 1, 2), bytes(2), "")  # two labels
@example("t10k-labels-idx1-ubyte", struct.pack(">BBBBI", 0, 0, 12, 1, 20), b"\x7f" + bytes(79), "")  # a large label
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_arbitrary_content_is_refused_in_little_memory(tmp_path_factory, name, header, rest, suffix):
    pack = gzip.compress if suffix else bytes
    files = part_files("train", *TRAIN, suffix) | part_files("t10k", *TEST, suffix)
    files[name + suffix] = pack(header + rest)
    path = write_files(tmp_path_factory.mktemp("data"), files)
    assert peak(lambda: refused(path, name)) < 8 * 2**20


@pytest.mark.parametrize("archive", [False, True])
def test_bombs_are_not_unpacked(tmp_path, archive):
    """Thirty small images are announced, and 300 million bytes would come."""
    bomb = gzip.compress(idx_bytes(TRAIN[0]) + bytes(300_000_000), compresslevel=1)
    assert len(bomb) < 2_000_000
    files = part_files("train", *TRAIN, ".gz") | part_files("t10k", *TEST, ".gz") | {"train-images-idx3-ubyte.gz": bomb}
    path = write_zip(tmp_path / "gzip.zip", files) if archive else write_files(tmp_path / "mnist", files)
    assert peak(lambda: refused(path, "holds more than the 480 bytes")) < 8 * 2**20


def test_announced_sizes_beyond_all_that_is_published_are_refused(tmp_path):
    for shape in ((2**31, 28, 28), (2**32 - 1,) * 3, (0, 28, 28), (30, 0, 28)):
        files = FILES | {"train-images-idx3-ubyte": struct.pack(">BBBB3I", 0, 0, 8, 3, *shape) + bytes(99)}
        refused(write_files(tmp_path, files), "claims to hold")


def test_archives_that_cannot_be_unpacked_are_refused(tmp_path):
    path = write_zip(tmp_path / "gzip.zip", FILES)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        refused(path, "gzip.zip")
    central = whole.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 99)):  # encrypted, and an unknown method
        content = bytearray(whole)
        for start in [i for i in range(central, len(whole)) if whole[i : i + 4] == b"PK\x01\x02"]:
            content[start + offset] = value
        for start in [i for i in range(central) if whole[i : i + 4] == b"PK\x03\x04"]:
            content[start + offset - 2] = value
        path.write_bytes(content)
        refused(path, "cannot be read or is damaged")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    refused(path, "holds no IDX files")


def test_numbers_and_sizes_that_do_not_agree_are_refused(tmp_path):
    files = FILES | {"train-labels-idx1-ubyte": idx_bytes(TRAIN[1][:29])}
    refused(write_files(tmp_path / "a", files), "images-idx3-ubyte' holds 30 images", "labels-idx1-ubyte' 29 labels")
    files = FILES | part_files("t10k", *random_part(20, side=5))
    refused(write_files(tmp_path / "b", files), "differ in size")
    files = FILES | {"train-labels-idx1-ubyte": FILES["train-images-idx3-ubyte"]}
    refused(write_files(tmp_path / "c", files), "is not an IDX file of labels")


# --- real files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "sizes"),
    [("mnist", 10, (60_000, 10_000)), ("fashion-mnist", 10, (60_000, 10_000)), ("emnist-letters", 26, None)],
)
def test_real_datasets_are_as_published(name, classes, sizes):
    """HLF_IDX_DATA names folders, separated as in PATH, with datasets or with folders of them."""
    roots = [Path(place) for place in os.environ.get("HLF_IDX_DATA", "").split(os.pathsep) if place]
    for folder in [*roots, *(place for root in roots for place in sorted(root.glob("*/")))]:
        try:
            data = load_idx(folder)
        except UserError:
            continue
        if data.name == name:
            break
    else:
        pytest.skip(f"needs {name} in a folder that HLF_IDX_DATA names")
    assert len(data.classes) == classes
    assert sizes is None or (len(data.train), len(data.test)) == sizes
    if name == "mnist":
        assert np.bincount(data.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    if name == "emnist-letters":
        # upright, the stem of an I is taller than wide
        letters = data.train.images[data.train.labels == 8, ..., 0].mean(axis=0)
        assert np.ptp(np.flatnonzero(letters.max(axis=1) > 0.5)) > 1.5 * np.ptp(
            np.flatnonzero(letters.max(axis=0) > 0.5)
        )
