"""IDX files of every type that the format has, of colour images, compressed under any name, and QMNIST's."""

import gzip

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from idx_makers import TYPES, idx_bytes, part_files, random_part, write_files, write_zip

from hlf_np import UserError
from hlf_np.data import load_idx

LARGEST = {"u1": 255, "i1": 127, "i2": 255, "i4": 255, "f4": 255, "f8": 255}  # pixels that a type can hold
IMAGES, LABELS = random_part(20)


def dataset(folder, images, labels, names=("images-idx3-ubyte", "labels-idx1-ubyte"), prefixes=("train", "t10k")):
    """A folder in which both parts have the same files."""
    return write_files(
        folder,
        {f"{prefix}-{name}": file for prefix in prefixes for name, file in zip(names, (images, labels), strict=True)},
    )


@given(
    kinds=st.tuples(st.sampled_from(sorted(TYPES)), st.sampled_from(sorted(TYPES))),
    channels=st.sampled_from([(), (1,), (2,), (3,), (4,)]),
    column=st.booleans(),
    unit=st.booleans(),
    packed=st.tuples(st.booleans(), st.booleans()),
    suffix=st.sampled_from(["", ".gz"]),
    archive=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_every_type_is_read(tmp_path_factory, kinds, channels, column, unit, packed, suffix, archive, seed):
    """Compression is seen from the content, whatever the name says."""
    random, (kind, label_kind) = np.random.default_rng(seed), kinds
    images = random.integers(0, LARGEST[kind] + 1, (9, 5, 3, *channels)).astype(kind)
    images[0, 0, 0] = LARGEST[kind]  # or floats might all lie in [0, 1]
    if kind.startswith("f"):
        images = images / images.dtype.type(255 if unit else 1)
    white = 1 if kind.startswith("f") and unit else 255
    labels = random.permutation(9)
    pack = [gzip.compress if compressed else bytes for compressed in packed]
    files = {}
    for part in ("train", "t10k"):
        files[f"{part}-images-idx{images.ndim}-ubyte{suffix}"] = pack[0](idx_bytes(images, kind))
        shaped = labels[:, None] if column else labels
        files[f"{part}-labels.idx{shaped.ndim}-int{suffix}"] = pack[1](idx_bytes(shaped, label_kind))
    place = tmp_path_factory.mktemp("data")
    data = load_idx(write_zip(place / "some.zip", files) if archive else write_files(place / "some", files))
    expected = (images.astype(np.float32) / np.float32(white)).reshape(9, 5, 3, -1)
    for split in (data.train, data.test):
        assert (split.images.dtype, split.labels.dtype) == (np.float32, np.int64)
        assert split.images.flags.c_contiguous
        assert 0 <= split.images.min() <= split.images.max() <= 1
        np.testing.assert_array_equal(split.images, expected)
        np.testing.assert_array_equal(split.labels, labels)
    assert data.classes == tuple("012345678")


def test_both_parts_have_one_scale(tmp_path):
    """A part of dark images beside bright ones may be one in [0, 1]."""
    dark, bright = np.full((20, 2, 2), 20, np.float32), np.full((20, 2, 2), 200, np.float32)
    files = {"train-images-idx3-float": idx_bytes(bright, "f4"), "t10k-images-idx3-float": idx_bytes(dark, "f4")}
    files |= {f"{part}-labels-idx1-ubyte": idx_bytes(LABELS) for part in ("train", "t10k")}
    data = load_idx(write_files(tmp_path / "floats", files))
    np.testing.assert_allclose([data.train.images[0, 0, 0, 0] * 255, data.test.images[0, 0, 0, 0] * 255], [200, 20])
    dark[:] = 1
    for name, first in (("whole numbers", 1), ("fractions", 0.5)):
        dark[0] = first
        files["t10k-images-idx3-float"] = idx_bytes(dark, "f4")
        with pytest.raises(UserError, match="pixels up to 1, the brightest images 200"):
            load_idx(write_files(tmp_path / name, files))
    files["train-images-idx3-float"] = idx_bytes(
        bright.astype(np.uint8)
    )  # bytes are of 0 to 255 whatever the others are
    data = load_idx(write_files(tmp_path / "bytes and floats", files))
    np.testing.assert_allclose([data.train.images[0, 0, 0, 0] * 255, data.test.images[0, 0, 0, 0]], [200, 0.5])


def qmnist(folder):
    """The four files as published: of each image its class and seven numbers more."""
    more = np.random.default_rng(0).integers(0, 60_000, (20, 8))
    more[:, 0] = LABELS
    names, prefixes = ("images-idx3-ubyte.gz", "labels-idx2-int.gz"), ("qmnist-train", "qmnist-test")
    return dataset(folder, gzip.compress(idx_bytes(IMAGES)), gzip.compress(idx_bytes(more, "i4")), names, prefixes)


def test_qmnist_is_read_as_published(tmp_path):
    data = load_idx(qmnist(tmp_path / "download"))
    assert (data.name, data.classes) == ("qmnist", tuple("0123456789"))
    np.testing.assert_array_equal(data.train.labels, LABELS)
    np.testing.assert_array_equal(data.test.images[..., 0] * 255, IMAGES)
    beside = write_files(
        tmp_path / "download", part_files("train", *random_part(30)) | part_files("t10k", IMAGES, LABELS)
    )
    assert len(load_idx(beside, "qmnist").train) == 20
    assert len(load_idx(beside, "mnist").train) == 30
    with pytest.raises(
        UserError, match="files named as those of mnist, qmnist instead of a single dataset: name one of these"
    ):
        load_idx(beside)
    with pytest.raises(UserError, match=r"github\.com/facebookresearch/qmnist"):
        load_idx(tmp_path / "qmnist")


def test_the_name_qmnist_does_not_ask_for_its_files(tmp_path):
    assert load_idx(dataset(tmp_path, idx_bytes(IMAGES), idx_bytes(LABELS)), "qmnist").name == "qmnist"


ORDER = "give height, width and up to 4 channels, in this order"
RANGE = "give values from 0 to 255, or floating-point values from 0 to 1"
UNSUPPORTED = {
    "negative pixels": (idx_bytes(np.full((20, 2, 2), -3), "i1"), None, f"has pixels from -3 to -3: {RANGE}"),
    "pixels beyond bytes": (idx_bytes(np.full((20, 2, 2), 4095), "i2"), None, f"from 4095 to 4095: {RANGE}"),
    "pixels around zero": (idx_bytes(np.linspace(-1, 1, 80).reshape(20, 2, 2), "f4"), None, f"from -1 to 1: {RANGE}"),
    "no pixels": (idx_bytes(np.full((20, 2, 2), np.nan), "f8"), None, f"from nan to nan: {RANGE}"),
    "endless pixels": (idx_bytes(np.full((20, 2, 2), np.inf), "f4"), None, f"from inf to inf: {RANGE}"),
    "channels first": (idx_bytes(np.zeros((20, 3, 8, 8))), None, f"holds images of shape (3, 8, 8): {ORDER}"),
    "flat images": (idx_bytes(np.zeros((20, 64))), None, "is not an IDX file of images"),
    "one-hot labels": (None, idx_bytes(np.eye(10)[LABELS]), "10 values for each image: give one, the index of its"),
    "one-hot labels of eight": (None, idx_bytes(np.eye(8)[LABELS % 8]), "8 values for each image: give one"),
    "negative labels": (None, idx_bytes(-LABELS.astype(int), "i4"), "labels from -9 to 0: give integers from 0"),
    "large labels": (
        None,
        idx_bytes(LABELS.astype(int) + 2**30, "i4"),
        "labels from 1073741824 to 1073741833: give integers",
    ),
    "halves": (None, idx_bytes(LABELS / 2, "f4"), "labels from 0.0 to 4.5: give integers"),
    "no labels": (None, idx_bytes(LABELS * np.nan, "f8"), "labels from nan to nan: give integers"),
}


@pytest.mark.parametrize(("images", "labels", "said"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_is_not_supported_is_said(tmp_path, images, labels, said):
    folder = dataset(tmp_path, images or idx_bytes(IMAGES), labels or idx_bytes(LABELS))
    with pytest.raises(UserError) as caught:
        load_idx(folder)
    message = str(caught.value)
    assert said in message
    assert str(folder) in message
    assert "damaged" not in message or said.startswith("is not an IDX file")
