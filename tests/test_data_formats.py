"""Datasets in the formats that people have them in: whatever the files hold comes out, or one clear line."""

import os
import shutil
import struct
import zipfile
import zlib

import format_makers as make
import fuzz_readers
import numpy as np
import pytest
from helpers import peak
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from idx_makers import TYPES, idx_bytes, write_files
from PIL import Image

import hlf_np as hlf
from hlf_np import UserError
from hlf_np.data import Dataset, Split
from hlf_np.data.fonts import prototypes_digest
from hlf_np.data.formats import file_tree, image_folders
from hlf_np.data.open_source import open_source
from hlf_np.data.source import array_source, open_files

RANDOM = np.random.default_rng(0)
GREY, COLOUR = make.random_parts(RANDOM), make.random_parts(RANDOM, shape=(4, 4, 3))
TINY = make.random_parts(RANDOM, {"train": 12, "test": 7}, (5, 6), 3)
CIFAR = make.random_parts(RANDOM, {"train": 9, "test": 4}, (32, 32, 3))
EMNIST = make.random_parts(RANDOM, shape=(28, 28))
seeds = st.integers(0, 2**32 - 1)
examples = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


def assert_holds(data, parts, names=None):
    """All images and labels, in their order."""
    for part, split in (("train", data.train), ("test", data.test)):
        images, labels = parts[part]
        expected = images.reshape(*images.shape[:3], -1).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(split.images, expected, strict=True)
        np.testing.assert_array_equal(split.labels, labels.astype(np.int64), strict=True)
        assert split.images.flags.c_contiguous
        assert split.codes is None
    assert names is None or data.classes == tuple(names)


def refused(path, *words, **options):
    """What is said about a dataset that cannot be loaded: one line."""
    with pytest.raises(UserError) as caught:
        hlf.data.load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# --- archives of arrays ---------------------------------------------------------------------------------------


@given(layout=st.sampled_from([make.keras, make.medmnist, make.kmnist]), seed=seeds, colour=st.booleans())
@examples
def test_archives_of_arrays_are_read_in_every_layout(tmp_path_factory, layout, seed, colour):
    random = np.random.default_rng(seed)
    counts = {"train": int(random.integers(1, 9)), "test": int(random.integers(1, 9))}
    parts = make.random_parts(random, counts, (3, 5, 3) if colour else (3, 5))
    folder = write_files(tmp_path_factory.mktemp("data"), layout(parts))
    for path in (folder, *folder.iterdir()):
        assert_holds(hlf.data.load(path), parts)


def test_names_and_classes_are_those_of_the_archives(tmp_path):
    for files, name, last in (
        (make.keras(GREY), "mnist", "9"),
        (make.keras(GREY, name="Fashion_MNIST"), "fashion-mnist", "Ankle boot"),
        (make.medmnist(COLOUR), "pathmnist", "9"),
        (make.kmnist(GREY), "kmnist", "wo"),
        (make.kmnist(GREY, "k49"), "k49", "iteration"),
    ):
        data = hlf.data.load(write_files(tmp_path / name, files))
        assert (data.name, data.classes[-1]) == (name, last)
    assert len(hlf.data.load(tmp_path / "k49").classes) == 49
    assert hlf.data.load(tmp_path / "pathmnist", "Blood_MNIST").name == "blood-mnist"
    refused(tmp_path / "kmnist", "contains kmnist instead of blood: name one of these", name="blood")


def test_one_of_several_archives_is_named(tmp_path):
    write_files(tmp_path, make.keras(GREY) | make.medmnist(COLOUR) | make.kmnist(GREY) | make.kmnist(GREY, "k49"))
    write_files(tmp_path, {"weights.npz": make.npz(weights=np.ones(3)), "notes.txt": b"of mine"})
    refused(tmp_path, "contains k49, kmnist, mnist, pathmnist instead of a single dataset: name one of these")
    for name in ("mnist", "kmnist", "k49", "pathmnist"):
        assert hlf.data.load(tmp_path, name).name == name
    assert_holds(hlf.data.load(tmp_path / "mnist.npz"), GREY)


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("x", "y"), ("data", "target"), ("X_train", "Y_train"), ("train_imgs", "train_labels")],
)
def test_a_fifth_of_a_single_part_serves_to_test(tmp_path, images, labels):
    made, numbers = GREY["train"]
    write_files(tmp_path, {"own.npz": make.npz(**{images: made, labels: numbers, "more": np.array("text")})})
    data = hlf.data.load(tmp_path)
    assert (len(data.train), len(data.test), data.name) == (10, 2, "own")
    both = np.concatenate([data.train.images, data.test.images])
    assert sorted(image.tobytes() for image in both) == sorted(
        (image[..., None] / np.float32(255)).tobytes() for image in made.astype(np.float32)
    )


def test_images_for_validation_serve_to_test_where_there_are_no_others(tmp_path):
    parts = make.random_parts(RANDOM, {"train": 8, "val": 5, "test": 6})
    assert_holds(hlf.data.load(write_files(tmp_path / "three", make.medmnist(parts))), parts)
    del parts["test"]
    found = hlf.data.load(write_files(tmp_path / "two", make.medmnist(parts)))
    assert_holds(found, {"train": parts["train"], "test": parts["val"]})


@given(kind=st.sampled_from(["u1", "i2", ">i4", "u8", "f2", "f4", ">f8", "?"]), unit=st.booleans(), seed=seeds)
@examples
def test_pixels_of_every_type_follow_the_rules_of_idx(tmp_path_factory, kind, unit, seed):
    images = np.random.default_rng(seed).integers(0, 256, (10, 3, 3)).astype(kind)
    images[0, 0, 0] = 255
    white = 1 if kind == "?" or (unit and "f" in kind) else 255
    if white == 1 and kind != "?":
        images /= images.dtype.type(255)
    path = write_files(tmp_path_factory.mktemp("data"), make.keras({"train": (images, np.arange(10) % 3)}))
    data = hlf.data.load(path, "own")
    found = np.concatenate([data.train.images, data.test.images])
    expected = (images.astype(np.float32) / np.float32(white)).reshape(10, 3, 3, 1)
    assert found.dtype == np.float32
    assert sorted(map(bytes, found)) == sorted(map(bytes, expected))


def test_channels_that_come_first_go_last_beyond_doubt(tmp_path):
    def path(name, shape):
        images = np.arange(np.prod(shape)).reshape(shape) % 256
        return images, write_files(
            tmp_path / name, {"own.npz": make.npz(images=images, labels=np.arange(len(images)) % 3)}
        )

    for channels in (1, 3):
        images, folder = path(f"of {channels}", (10, channels, 6, 5))
        data = hlf.data.load(folder)
        assert data.train.images.shape == (8, 6, 5, channels)
        assert (data.train.images[0] * 255).round().tolist() in (images.transpose(0, 2, 3, 1) * 1.0).tolist()
    assert hlf.data.load(path("last", (10, 3, 6, 3))[1]).train.images.shape[1:] == (3, 6, 3)
    refused(path("either", (10, 3, 4, 4))[1], "channels may be first or last: put them last")
    refused(path("many", (10, 5, 6, 7))[1], "give height, width and up to 4 channels, in this order")


LABELS = np.arange(9)
REFUSED_ARRAYS = {
    "objects": ({"images": np.array([None] * 9), "labels": LABELS}, "no objects"),
    "texts": ({"images": np.zeros((9, 4, 4)), "labels": np.array(["cat"] * 9)}, "give one integer for each image"),
    "one-hot labels": ({"images": np.zeros((9, 4, 4)), "labels": np.eye(9)}, "9 values for each image"),
    "negative labels": ({"images": np.zeros((9, 4, 4)), "labels": -LABELS}, "labels from -8 to 0"),
    "large pixels": ({"images": np.full((9, 4, 4), 256), "labels": LABELS}, "pixels from 256 to 256"),
    "flat images": ({"images": np.zeros((9, 16)), "labels": LABELS}, "holds images of shape (16,)"),
    "volumes": ({"train_images": np.zeros((9, 8, 8, 8)), "train_labels": LABELS}, "holds images of shape (8, 8, 8)"),
    "fewer labels": ({"images": np.zeros((9, 4, 4)), "labels": LABELS[1:]}, "holds 9 images, but"),
    "no images": ({"images": np.zeros((0, 4, 4)), "labels": LABELS[:0]}, "holds images of shape (4, 4)"),
    "a scalar": ({"images": np.array(3), "labels": LABELS}, "holds images of shape ()"),
    "no labels": ({"x_train": np.zeros((9, 4, 4)), "x_test": LABELS}, "is not a complete set of images and labels"),
    "two sizes": (
        {"x_train": np.zeros((9, 4, 4)), "y_train": LABELS, "x_test": np.zeros((9, 5, 4)), "y_test": LABELS},
        "differ in size",
    ),
    "few": ({"images": np.zeros((4, 4, 4)), "labels": LABELS[:4]}, "too few to train and to test"),
    "two sets of images": (
        {"images": np.zeros((9, 4, 4)), "labels": LABELS, "x_train": np.ones((9, 4, 4))},
        "own.npz/x_train' are both images: leave one out of the archive",
    ),
    "two sets of labels": (
        {"val_images": np.zeros((9, 4, 4)), "val_labels": LABELS, "valid_labels": LABELS},
        "own.npz/valid_labels' are both labels",
    ),
}


@pytest.mark.parametrize(("arrays", "said"), REFUSED_ARRAYS.values(), ids=REFUSED_ARRAYS)
def test_arrays_that_are_no_dataset_are_refused(tmp_path, arrays, said):
    path = write_files(tmp_path, {"own.npz": make.npz(**arrays)}) / "own.npz"
    assert str(path) in refused(path, said) or said in ("differ in size", "too few to train and to test")
    refused(tmp_path, said)


@pytest.mark.parametrize("names", [("my_data", "My-Data"), ("数据", "данные")])
def test_of_archives_with_the_same_name_none_is_taken_in_secret(tmp_path, names):
    first, second = (make.npz(images=np.full((9, 4, 4), value), labels=LABELS % 2) for value in (0, 1))
    write_files(tmp_path, {f"{names[0]}.npz": first, f"{names[1]}.npz": second})
    refused(tmp_path, "have the same name: give the path of one")
    assert hlf.data.load(tmp_path / f"{names[1]}.npz").test.images.min() == 1


def test_archives_without_a_dataset_are_refused(tmp_path):
    write_files(
        tmp_path, {"model.npz": make.npz(weights=np.ones(3)), "k49-test-imgs.npz": make.npz(arr_0=GREY["test"][0])}
    )
    refused(tmp_path / "model.npz", "name the arrays x_train, y_train, x_test and y_test")
    refused(tmp_path, "k49-test-imgs.npz", "is not a complete set of images and labels")
    write_files(tmp_path, {"k49-test-labels.npz": b"PK damaged"})
    refused(tmp_path, "k49-test-labels.npz' is not an .npz archive")


# --- CIFAR ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "cifar-10-batches-bin"])
def test_cifar_10_is_read_in_its_binary_version(tmp_path, place):
    write_files(tmp_path / place, make.cifar10(CIFAR))
    data = hlf.data.load(tmp_path)
    assert data.name == "cifar-10"
    assert_holds(data, CIFAR, make.TEN)


def test_cifar_100_has_fine_and_coarse_classes(tmp_path):
    parts = make.random_parts(RANDOM, {"train": 9, "test": 4}, (32, 32, 3), 100)
    write_files(tmp_path / "cifar-100-binary", make.cifar100(parts))
    for name in (None, "cifar-100"):
        data = hlf.data.load(tmp_path, name)
        assert data.name == "cifar-100"
        assert_holds(data, parts, [f"fine_{number}" for number in range(100)])
    coarse = {part: (images, labels // 5) for part, (images, labels) in parts.items()}
    assert_holds(hlf.data.load(tmp_path, "CIFAR_100_coarse"), coarse, [f"coarse_{number}" for number in range(20)])
    refused(tmp_path, "contains cifar-100, cifar-100-coarse instead of cifar-10", name="cifar-10")
    (tmp_path / "cifar-100-binary" / "coarse_label_names.txt").unlink()
    assert hlf.data.load(tmp_path, "cifar-100-coarse").classes == tuple(map(str, range(20)))


def test_cifar_that_cannot_be_read_is_refused(tmp_path):
    files = make.cifar10(CIFAR)
    for names in (("data_batch_1", "test_batch", "batches.meta"), ("train", "test", "meta")):
        folder = write_files(tmp_path / names[0] / "py", dict.fromkeys(names, b"\x80\x04pickle"))
        refused(folder, "pickle files could run arbitrary code: get the binary version")
        refused(folder.parent, "get the binary version")
    for content in (b"", files["test_batch.bin"][:-1], files["test_batch.bin"] + b"x", bytes(100)):
        folder = write_files(tmp_path / "cut", files | {"test_batch.bin": content})
        refused(folder, "test_batch.bin", "records of 3073 bytes", "download it again")
    wrong = {"train": (CIFAR["train"][0], CIFAR["train"][1] + 5), "test": CIFAR["test"]}
    refused(write_files(tmp_path / "labels", make.cifar10(wrong)), "has labels", "those of cifar-10 are 0 to 9")
    for names in (b"cat\ndog\n", b"\xff" * 50, b"a\x07 b c d e f g h i j"):
        refused(write_files(tmp_path / "names", files | {"batches.meta.txt": names}), "batches.meta.txt")


# --- MATLAB ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["digits", "letters", "mnist"])
@pytest.mark.parametrize("compressed", [False, True])
def test_emnist_is_the_same_from_matlab_and_idx(tmp_path, split, compressed):
    options = {"split": split, "first_label": int(split == "letters")}
    folder = write_files(tmp_path / "matlab", make.emnist_matlab(EMNIST, compressed=compressed, **options))
    published = hlf.data.load(write_files(tmp_path / "idx", make.emnist_idx(EMNIST, **options)))
    for path in (tmp_path / "matlab", folder / f"emnist-{split}.mat"):
        data = hlf.data.load(path)
        assert (data.name, data.classes) == (published.name, published.classes) == (f"emnist-{split}", data.classes)
        assert_holds(data, EMNIST)
    assert_holds(published, EMNIST)


def test_the_split_that_is_named_or_the_papers_is_read_from_nists_archive(tmp_path):
    files = make.emnist_matlab(EMNIST) | make.emnist_matlab(EMNIST, "letters", first_label=1)
    write_files(tmp_path, {"matlab.zip": make.zipped(files, "matlab/")})
    for path in (
        tmp_path,
        tmp_path / "matlab.zip",
        write_files(tmp_path / "unpacked", {f"matlab/{n}": files[n] for n in files}),
    ):
        assert hlf.data.load(path).name == "emnist-digits"
        assert hlf.data.load(path, "emnist-letters").classes[:2] == ("A", "B")


def big_endian(content):
    """The same file as another machine writes it: only what is read here need be right."""

    def matrix(kind, shape, *elements):
        parts = [struct.pack(">IIII", 6, 8, kind, 0), struct.pack(">II", 5, 8), struct.pack(">ii", *shape)]
        return element(14, b"".join([*parts, struct.pack(">II", 1, 0), *elements]))

    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    def structure(name, **fields):
        names = b"".join(field.encode().ljust(8, b"\0") for field in fields)
        inner = [struct.pack(">HHi", 4, 5, 8), element(1, names), *fields.values()]
        head = [struct.pack(">IIII", 6, 8, 2, 0), struct.pack(">IIii", 5, 8, 1, 1), element(1, name)]
        return element(14, b"".join([*head, *inner]))

    def numbers(array, kind, form):
        return matrix(9, array.shape, element(kind, array.astype(form).tobytes(order="F")))

    parts = {
        part: structure(b"", images=numbers(images, 2, "u1"), labels=numbers(labels, 3, ">i2"))
        for part, (images, labels) in content.items()
    }
    return b"MATLAB 5.0".ljust(124) + b"\1\0MI" + element(1, b"skipped.") + structure(b"dataset", **parts)


def test_files_of_another_byte_order_are_read(tmp_path):
    rows = {
        part: (images.swapaxes(1, 2).reshape(len(images), -1), labels[:, None])
        for part, (images, labels) in EMNIST.items()
    }
    write_files(tmp_path, {"emnist-digits.mat": big_endian(rows)})
    assert_holds(hlf.data.load(tmp_path), EMNIST)


def test_other_files_of_matlab_are_refused(tmp_path):
    files = make.emnist_matlab(EMNIST, compressed=False)
    (content,) = files.values()
    refused(
        write_files(tmp_path, {"mine.mat": content}) / "mine.mat", "mine.mat' holds no dataset in a supported format"
    )
    refused(tmp_path, "holds no dataset in a supported format")
    for name, spoiled, said in (
        ("new", b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF", "version 7.3: save it with -v7"),
        ("old", struct.pack("<iiiii", 0, 1, 1, 0, 2) + bytes(200), "not a MATLAB file"),
        ("empty", b"", "not a MATLAB file"),
        ("header", content[:128], "no variable `dataset`"),
        ("cut", content[:-9], "extends beyond the one that contains it"),
        ("name", content.replace(b"dataset", b"another"), "no variable `dataset`"),
        ("fields", content.replace(b"images", b"pixels"), "'images'"),
        ("training", content.replace(b"train", b"learn"), "'train'"),
    ):
        refused(write_files(tmp_path / name, {"emnist-digits.mat": spoiled}), "emnist-digits.mat", said)


def test_bombs_for_matlab_are_not_unpacked(tmp_path):
    for size, said in (
        (2**31, "too large"),
        (9, "not have its announced size"),
        (2**29, "not have its announced size"),
    ):
        inner = zlib.compress(struct.pack("<II", 14, size) + bytes(60_000_000))
        header = b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(inner))
        path = write_files(tmp_path / str(size), {"emnist-digits.mat": header + inner})
        assert peak(lambda path=path, said=said: refused(path, said)) < (160 if size == 2**29 else 8) * 2**20


# --- folders of images ----------------------------------------------------------------------------------------


def sorted_parts(parts, keys=("train", "test")):
    """In the order of folders: by class, then by name."""
    orders = {part: np.argsort(parts[part][1], kind="stable") for part in keys}
    return {part: tuple(array[orders[part]] for array in parts[part]) for part in keys}


@given(
    kinds=st.lists(st.sampled_from(["png", "bmp", "ppm"]), min_size=1, max_size=3),
    colour=st.booleans(),
    test=st.sampled_from(["test", "val", "valid", "validation", "Test"]),
    place=st.sampled_from(["", "deeper/"]),
    archive=st.booleans(),
    seed=seeds,
)
@examples
def test_images_are_read_from_folders_of_classes(tmp_path_factory, kinds, colour, test, place, archive, seed):
    parts = make.random_parts(np.random.default_rng(seed), {"train": 8, test: 5}, (4, 5, 3) if colour else (4, 5), 3)
    files = {place + name: content for name, content in make.pictures(parts, kinds).items()}
    folder = tmp_path_factory.mktemp("data") / "My Letters"
    path = write_files(folder, {"some.zip": make.zipped(files)}) / "some.zip" if archive else write_files(folder, files)
    expected = sorted_parts({"train": parts["train"], "test": parts[test]})
    data = hlf.data.load(path)
    assert_holds(data, expected, "abc")
    assert archive or data.name == ("deeper" if place else "my-letters")


def test_folders_without_parts_keep_a_fifth_to_test(tmp_path):
    images, labels = make.random_parts(RANDOM, {"": 30}, (4, 4), 3)[""]
    files = make.pictures({"": (images, labels)}, classes=("cat", "10", "9"))
    data = hlf.data.load(write_files(tmp_path, files), "pets")
    assert (data.name, data.classes, len(data.train), len(data.test)) == ("pets", ("10", "9", "cat"), 24, 6)


def test_what_is_no_image_is_not_looked_at(tmp_path):
    path = write_files(tmp_path, make.pictures(TINY))
    write_files(
        path,
        dict.fromkeys(("notes.txt", "train/list.csv", "train/a/Thumbs.db", "train/a/.hidden.png"), b"of mine")
        | dict.fromkeys(("__MACOSX/a/._0.png", ".git/HEAD", "train/.ipynb_checkpoints/a.png"), b""),
    )
    (path / "train" / "empty").mkdir()
    (path / "train" / "a" / "a folder.png").mkdir()
    os.mkfifo(path / "train" / "a" / "pipe.png")
    (path / "train" / "a" / "nowhere.png").symlink_to("nowhere")
    assert_holds(hlf.data.load(path), sorted_parts(TINY), "abc")


def test_classes_to_test_must_be_known(tmp_path):
    path = write_files(tmp_path, make.pictures(TINY))
    shutil.copytree(path / "test" / "a", path / "test" / "z")
    refused(path, "has test images of class 'z', but no training images")
    shutil.rmtree(path / "test" / "z")
    shutil.rmtree(path / "test" / "a")
    assert hlf.data.load(path).classes == ("a", "b", "c")


def test_a_single_class_is_none(tmp_path):
    refused(
        write_files(tmp_path, {"cats/1.png": make.picture(np.zeros((4, 4), np.uint8))}),
        "holds no dataset in a supported format",
    )


def test_parts_are_no_classes_unless_there_are_others(tmp_path):
    picture = make.picture(GREY["test"][0][0])
    write_files(tmp_path, {f"{name}/{number}.png": picture for name in ("train", "test") for number in range(9)})
    refused(tmp_path, "holds no dataset in a supported format")
    write_files(tmp_path, {f"bus/{number}.png": picture for number in range(9)})
    assert hlf.data.load(tmp_path).classes == ("bus", "test", "train")


@pytest.mark.parametrize("side", [1, 4, 32])
def test_images_of_any_size_are_resized_to_squares(tmp_path, side):
    files = make.pictures({"train": (TINY["train"][0], TINY["train"][1])})
    files["train/a/large.jpg"] = make.picture(np.full((60, 90, 3), 77, np.uint8), "jpg")
    files["train/b/white.png"] = make.picture(Image.new("1", (9, 3), 1))
    path = write_files(tmp_path, files)
    refused(path, "pixels, others", "give --image-size")
    data = hlf.data.load(path, image_size=side)
    everything = np.concatenate([data.train.images, data.test.images])
    assert everything.shape[1:] == (side, side, 3)
    for value in (77, 255):
        assert (np.abs(everything * 255 - value).max(axis=(1, 2, 3)) <= 1).any()


def test_only_folders_of_images_are_resized(tmp_path):
    path = write_files(tmp_path, make.keras(GREY))
    refused(path, "only folders of images can be resized: leave --image-size out", image_size=8)
    for size, said in ((0, "image_size must be between 1"), (2.5, "integer"), (10**9, "between")):
        refused(path, said, image_size=size)


RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
RAMP_COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1)


def palette(colours):
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).convert("P")
    image.putpalette(colours.reshape(-1, 3)[:24].tobytes())
    return image


def with_alpha(pixels, alpha):
    return np.concatenate([pixels.reshape(4, 6, -1), np.broadcast_to(np.uint8(alpha), (4, 6, 1))], axis=-1)


GREYS = np.repeat(RAMP.reshape(-1, 1), 3, axis=1)
MODES = {
    "grey": (make.picture(RAMP), RAMP),
    "colour": (make.picture(RAMP_COLOUR), RAMP_COLOUR),
    "one bit": (make.picture(Image.fromarray(RAMP > 100)), (RAMP > 100) * 255),
    "one bit as text": (b"P1 6 4 " + b"010101" * 4, np.tile([255, 0], 12).reshape(4, 6)),
    "sixteen bits": (make.picture(RAMP.astype(np.uint16) * 257), RAMP),
    "sixteen bits of PGM": (b"P5 6 4 65535\n" + (RAMP.astype(">u2") * 257).tobytes(), RAMP),
    "palette": (make.picture(palette(RAMP_COLOUR)), RAMP_COLOUR),
    "palette of greys": (make.picture(palette(GREYS)), RAMP),
    "GIF": (make.picture(palette(RAMP_COLOUR), "gif"), RAMP_COLOUR),
    "GIF of greys": (make.picture(RAMP, "gif"), RAMP),
    "opaque": (make.picture(with_alpha(RAMP_COLOUR, 255)), RAMP_COLOUR),
    "opaque grey": (make.picture(with_alpha(RAMP, 255)), RAMP),
    "transparent": (make.picture(with_alpha(RAMP_COLOUR, 0)), np.full((4, 6, 3), 255)),
    "transparent grey": (make.picture(with_alpha(RAMP, 0)), np.full((4, 6), 255)),
    "one transparent grey of sixteen bits": (
        make.picture(RAMP.astype(np.uint16) * 257, transparency=50 * 257),
        np.where(RAMP == 50, 255, RAMP),
    ),
    "one transparent grey": (make.picture(RAMP, transparency=50), np.where(RAMP == 50, 255, RAMP)),
    "CMYK": (make.picture(Image.new("CMYK", (6, 4)), "jpg"), np.full((4, 6, 3), 255)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_are_grey_or_in_colour(tmp_path, mode):
    content, expected = MODES[mode]
    names = [f"{part}/{name}/1.png" for part in ("train", "test") for name in "ab"]
    data = hlf.data.load(write_files(tmp_path / "alone", dict.fromkeys(names, content)))
    np.testing.assert_array_equal(np.rint(data.train.images[1] * 255), expected.reshape(4, 6, -1))
    colour = dict.fromkeys(names, MODES["colour"][0])
    for place in (0, 3):  # first or last, one image in colour makes all of them so
        files = dict.fromkeys(names, content) | {names[place]: colour[names[place]]}
        data = hlf.data.load(write_files(tmp_path / str(place), files))
        shown = np.broadcast_to(expected.reshape(4, 6, -1), (4, 6, 3))
        np.testing.assert_array_equal(np.rint(data.train.images[1] * 255), shown)


def test_photographs_are_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # held with its right side up
    upright = np.kron(RAMP, np.ones((8, 8))).astype(np.uint8)
    stored = make.picture(np.rot90(upright), "jpg", exif=exif, quality=95)
    names = [f"{part}/{name}/1.jpg" for part in ("train", "test") for name in "ab"]
    shown = hlf.data.load(write_files(tmp_path / "photos", dict.fromkeys(names, stored))).train.images[0, :, :, 0]
    assert shown.shape == upright.shape
    assert np.abs(255 * shown - upright).max() < 30


def test_sixteen_bits_that_hold_values_of_eight_are_refused(tmp_path):
    names = [f"{part}/{name}/1.png" for part in ("train", "test") for name in "ab"]
    files = dict.fromkeys(names, MODES["sixteen bits"][0])
    with pytest.raises(UserError, match=r"1.png' has 16 bits, but no value above \d+, which is black"):
        hlf.data.load(write_files(tmp_path / "dark", files | {names[1]: make.picture(RAMP.astype(np.uint16))}))
    black = hlf.data.load(write_files(tmp_path / "black", files | {names[0]: make.picture(0 * RAMP.astype(np.uint16))}))
    assert not black.train.images[0].any()


def test_names_of_classes_are_one_line_of_text(tmp_path):
    picture = make.picture(RAMP)
    names = ["Größe", "two\nlines", os.fsdecode(b"caf\xe9"), "日本"]
    data = hlf.data.load(write_files(tmp_path, {f"{name}/{n}.png": picture for name in names for n in range(2)}))
    assert sorted(data.classes) == sorted(["Größe", r"two\nlines", r"caf\udce9", "日本"])
    assert all(name.encode() for name in data.classes)


def test_images_that_are_none_or_bombs_are_refused(tmp_path, monkeypatch):
    good = make.picture(RAMP)

    def large(side):
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", b""))
        )

    for name, content, said in (
        ("text", b"of mine", "is not an image (PNG, JPEG"),
        ("empty", b"", "is not an image (PNG, JPEG"),
        ("cut", good[:-30], "cannot be read or is damaged"),
        ("large", large(9000), "claims 9000x9000 pixels"),
        ("larger", large(11_000), "claims 11000x11000 pixels"),
        ("bomb", large(60_000), "pixels"),
        ("other format", make.picture(RAMP, "tiff"), "is not an image (PNG, JPEG"),
        ("numbers", b"Pf 6 4 -1.0\n" + bytes(96), "cannot be read"),
    ):
        path = write_files(tmp_path / name, {"a/1.png": good, "a/2.png": content, "b/1.png": good})
        assert peak(lambda path=path, said=said: refused(path, "2.png", said)) < 2**23
        refused(path, "2.png", image_size=8)
    path = write_files(tmp_path / "many", make.pictures(TINY))
    for module in (file_tree, image_folders):
        monkeypatch.setattr(module, "MAX_ARRAY_BYTES", 19 * 30 - 1)
    refused(path, "has 19 images of 6x5 pixels, more than 1 GiB: give a smaller --image-size")
    monkeypatch.setattr(image_folders, "MAX_ARRAY_BYTES", 19 * 30)
    refused(write_files(path, {"train/c/z.png": make.picture(np.zeros((5, 6, 3), np.uint8))}), "more than 1 GiB")


# --- any format -----------------------------------------------------------------------------------------------


LAYOUTS = {
    "idx": lambda: make.mnist_idx(GREY),
    "keras": lambda: make.keras(GREY),
    "kmnist": lambda: make.kmnist(GREY),
    "cifar": lambda: make.cifar10(CIFAR),
    "matlab": lambda: make.emnist_matlab(EMNIST),
    "images": lambda: make.pictures(TINY),
}


def test_datasets_are_found_where_torchvision_leaves_them(tmp_path):
    other = make.random_parts(RANDOM)
    for name, parts in {"MNIST": GREY, "FashionMNIST": other}.items():
        write_files(tmp_path / name / "raw", make.mnist_idx(parts, "") | make.mnist_idx(parts))
    write_files(tmp_path / "EMNIST" / "raw", make.emnist_idx(EMNIST, "letters", 1))
    refused(tmp_path, "holds datasets in 'EMNIST/raw, FashionMNIST/raw, MNIST/raw'", "give the path of one")
    refused(tmp_path, "holds datasets in", name="kmnist")
    for name, parts in {"mnist": GREY, "fashion-mnist": other, "emnist-letters": EMNIST}.items():
        data = hlf.data.load(tmp_path, name)
        assert data.name == name
        assert_holds(data, parts)
    data = hlf.data.load(tmp_path / "MNIST")
    assert data.name == "mnist"
    shutil.rmtree(tmp_path / "EMNIST")
    shutil.rmtree(tmp_path / "FashionMNIST")
    assert hlf.data.load(tmp_path).name == "mnist"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("depth", ["", "one/", "one/two/"])
def test_archives_and_folders_are_searched(tmp_path, layout, depth):
    files = LAYOUTS[layout]()
    expected = hlf.data.load(write_files(tmp_path / "plain", files))
    deep = {depth + name: content for name, content in files.items()}
    paths = [write_files(tmp_path / "deep", deep)]
    if "npz" not in "".join(files):
        paths.append(write_files(tmp_path / "zip", {"x.zip": make.zipped(deep)}) / "x.zip")
    for path in paths:
        found = hlf.data.load(path)
        np.testing.assert_array_equal(found.train.images, expected.train.images)
        np.testing.assert_array_equal(found.test.labels, expected.test.labels)


def test_several_formats_in_one_place_are_told_apart_by_name(tmp_path):
    write_files(tmp_path, make.mnist_idx(GREY) | make.medmnist(COLOUR) | make.cifar10(CIFAR) | make.pictures(TINY))
    refused(tmp_path, "contains cifar-10, files named as those of mnist, pathmnist instead of a single dataset")
    for name, parts in {"pathmnist": COLOUR, "cifar-10": CIFAR, "mnist": GREY, "any-other": GREY}.items():
        data = hlf.data.load(tmp_path, name)
        assert data.name == name
        assert_holds(data, parts)


def test_files_that_may_not_be_read_are_named(tmp_path, monkeypatch):
    for layout, files in LAYOUTS.items():
        path = write_files(tmp_path / layout, files())
        with monkeypatch.context() as patch:
            for module in ("io.open", "zipfile.io.open"):
                patch.setattr(module, denied)
            refused(path, str(path), "Permission denied")


def denied(*_, **__):
    raise PermissionError(13, "Permission denied")


def test_members_of_archives_have_names_of_any_kind(tmp_path):
    files = {f"{name}/images.txt": b"x" for name in ("/", "//", "..", "a//b", "///a/b", "\\", " ")}
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (files | make.pictures(TINY) | {"a/": b"", "/": b""}).items():
            archive.writestr(name, content)
    assert_holds(hlf.data.load(path), sorted_parts(TINY))


def test_paths_without_a_dataset_are_one_line(tmp_path, monkeypatch):
    refused(tmp_path, "give a folder of images with one folder per class")
    refused(tmp_path / "cifar", "there is no", "binary version")
    refused(tmp_path / "none.npz", "there is no")
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "device.mat").symlink_to("/dev/zero")
    for name in ("pipe.npz", "device.mat"):
        refused(tmp_path / name, "neither a folder nor a zip archive")
    refused(write_files(tmp_path, {"x.tar.gz": b"\x1f\x8b"}) / "x.tar.gz", "neither a folder nor a zip archive")
    (tmp_path / "folder.npz").mkdir()
    refused(tmp_path / "folder.npz", "holds no dataset in a supported format")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "there is no")
    monkeypatch.setattr(file_tree.Path, "iterdir", denied)
    refused(tmp_path, "cannot read", "(Permission denied): give another folder")


@pytest.mark.parametrize("name", fuzz_readers.FORMATS)
def test_damaged_files_are_a_dataset_or_one_line(name):
    """`fuzz_readers.py` does it with thousands."""
    wrong = []
    outcomes, _ = fuzz_readers.run([name], range(80), wrong.append)
    assert not wrong
    assert min(outcomes[f"{name} loaded"], outcomes[f"{name} refused"]) > 5


# --- sources --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_format_is_a_source(tmp_path, layout):
    path = write_files(tmp_path / "some", LAYOUTS[layout]())
    data, source = hlf.data.load(path), open_files(path)
    found = source.dataset(source.train_size, source.test_size)
    assert source.manifold is None
    for split, stored in ((found.train, data.train), (found.test, data.test)):
        assert sorted(map(bytes, split.images)) == sorted(
            bytes(image)
            for image, label in zip(stored.images, stored.labels, strict=True)
            if label in data.train.labels
        )
    assert source.description == {
        "path": str(path),
        "digest": source.raw.digest,
        "prototypes": "",
        "image_size": 0,
    }
    assert source.raw.train.images.dtype == np.uint8
    other = write_files(tmp_path / "other", LAYOUTS[layout]())
    assert open_files(other, source.raw.name).raw.digest == source.raw.digest


def test_digests_tell_images_labels_and_sizes_apart(tmp_path):
    images, labels = TINY["train"]
    made = {
        "a": {"train": (images, labels)},
        "b": {"train": (images, labels[::-1])},
        "c": {"train": (images ^ 1, labels)},
    }
    for layout in (make.pictures, make.plain):
        digests = [
            open_files(write_files(tmp_path / layout.__name__ / n, layout(made[n])), "own").raw.digest for n in made
        ]
        assert len(set(digests)) == 3
    sized = open_files(tmp_path / "pictures" / "a", "own", seed=3, image_size=4)
    assert sized.raw.digest not in digests
    assert (sized.description["image_size"], sized.image_shape, sized.seed) == (4, (4, 4, 1), 3)


def test_arrays_are_a_source_like_any_other():
    images = RANDOM.random((9, 4, 4, 1)).astype(np.float32)
    data = Dataset("my-own", ("x", "y", "z"), Split(images, np.arange(9) % 2), Split(images[:4], np.arange(4) % 3))
    source = array_source(data, seed=2)
    assert (source.name, source.class_names, source.image_shape) == ("my_own", ("x", "y"), (4, 4, 1))
    assert (source.train_size, source.test_size, source.class_size, source.left_out) == (9, 3, 5, 1)
    assert source.description == {"path": "", "digest": source.raw.digest, "prototypes": "", "image_size": 0}
    assert sorted(map(bytes, source.dataset(9, 3).train.images)) == sorted(map(bytes, images))
    changed = Dataset("my-own", data.classes, Split(images * np.float32(0.5), data.train.labels), data.test)
    assert array_source(changed).raw.digest != source.raw.digest == array_source(data).raw.digest
    for train, test, said in (
        (data.train, data.test.take(slice(0)), "needs training images and test images"),
        (Split(images * 2, data.train.labels), data.test, "outside"),
        (Split(images, data.train.labels + 3), data.test, "labels must lie between 0 and 2"),
        (data.train, Split(images[:, 1:], data.train.labels), r"must have shape \(N, 4, 4, 1\)"),
    ):
        with pytest.raises(UserError, match=said):
            array_source(Dataset("my-own", data.classes, train, test))


def test_fonts_knows_its_manifold():
    source = open_source("fonts")
    assert source.manifold is source
    assert source.description == {"difficulty": "hard", "prototypes": prototypes_digest()}
    with pytest.raises(UserError, match="leave --image-size out"):
        open_source("fonts", image_size=28)
    with pytest.raises(UserError, match="use fonts, or a folder of"):
        open_source("nowhere")


def test_idx_files_of_every_type_go_through_the_same_door(tmp_path):
    images = RANDOM.integers(0, 128, (20, 3, 3))
    images[0, 0, 0] = 127
    for kind in TYPES:
        names = {"images-idx3-ubyte": idx_bytes(images, kind), "labels-idx1-ubyte": idx_bytes(np.arange(20) % 4, kind)}
        files = {f"{part}-{name}": content for part in ("train", "t10k") for name, content in names.items()}
        data = hlf.data.load(write_files(tmp_path / kind, files))
        assert_holds(data, {part: (images, np.arange(20) % 4) for part in ("train", "test")}, "0123")


def test_test_images_of_other_classes_alone_are_no_test():
    images = np.zeros((4, 8, 8, 1), np.float32)
    train, test = (Split(images, np.array(labels)) for labels in ([0, 0, 1, 1], [2, 2, 2, 2]))
    with pytest.raises(UserError, match="no test image of 'apart' belongs to a class of the training images"):
        array_source(Dataset("apart", ("a", "b", "c"), train, test))


def floats(tmp_path, train_end, test_end):
    """An archive of fractions from 0 to each end."""
    random, labels = np.random.default_rng(0), np.arange(40) % 3
    train, test = (random.random((40, 8, 8)) * end for end in (train_end, test_end))
    train[0, 0, 0], test[0, 0, 0] = train_end, test_end
    np.savez(tmp_path / "own.npz", x_train=train, y_train=labels, x_test=test, y_test=labels)
    return tmp_path / "own.npz", train, test


def test_fractions_may_exceed_1_by_rounding(tmp_path):
    path, train, test = floats(tmp_path, 1 + 1e-6, 1)
    data = hlf.data.load(path)
    np.testing.assert_allclose(data.train.images[..., 0], train, atol=2e-6)
    np.testing.assert_allclose(data.test.images[..., 0], test, atol=2e-6)
    assert data.train.images.max() == 1


def test_fractions_of_an_unknown_scale_are_refused(tmp_path):
    for ends, said in (
        ((1.5, 1), "up to 1, the brightest images 1.5"),
        ((1, 255), "up to 1, the brightest images 255"),
        ((2, 2), "up to 2"),
    ):
        refused(floats(tmp_path, *ends)[0], "pixels", said, "floating-point values from 0 to 1")
    path, train, _ = floats(tmp_path, 255, 200)
    np.testing.assert_allclose(hlf.data.load(path).train.images[..., 0] * 255, train, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_whole_numbers_of_an_unknown_scale_are_refused(tmp_path, dtype):
    """As in scikit-learn's digits, whose white is 16."""
    images, labels = (np.arange(40 * 64) % 17).reshape(40, 8, 8).astype(dtype), np.arange(40) % 3
    np.savez(tmp_path / "digits.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    refused(tmp_path / "digits.npz", "has pixels up to 16: give values from 0 to 255")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_parts_of_whole_numbers_on_two_scales_are_refused(tmp_path, dtype):
    images, labels = np.random.default_rng(0).integers(0, 256, (20, 4, 4)).astype(dtype), np.arange(20) % 3
    np.savez(tmp_path / "a.npz", x_train=images // 128, y_train=labels, x_test=images, y_test=labels)
    refused(tmp_path / "a.npz", f"x_train' has pixels up to 1, the brightest images {images.max():g}")


def test_letters_in_arrays_count_from_1_as_published_or_from_0(tmp_path):
    images = np.full((30, 4, 4), 255, np.uint8)
    for first in (0, 1):
        labels = np.arange(30) % 10 + first
        np.savez(tmp_path / "emnist-letters.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
        data = hlf.data.load(tmp_path / "emnist-letters.npz")
        assert [data.classes[label] for label in data.train.labels[:10]] == list("ABCDEFGHIJ")
    np.savez(tmp_path / "emnist-letters.npz", x_train=images, y_train=labels - 2, x_test=images, y_test=labels)
    refused(tmp_path / "emnist-letters.npz", "label")


def test_classes_have_the_same_order_in_folders_and_archives(tmp_path):
    files = {f"{name}/{n}.png": make.picture(RAMP) for name in ("cat", "cat-wild", "dog") for n in range(3)}
    folder = write_files(tmp_path / "pets", files)
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)
    assert hlf.data.load(folder).classes == hlf.data.load(archive).classes == ("cat", "cat-wild", "dog")


def test_a_class_whose_images_lie_one_folder_deeper_is_not_left_out(tmp_path):
    files = make.pictures({"": TINY["train"]})
    files["d/inner/1.png"] = files["c/000.png"]
    refused(write_files(tmp_path / "deeper", files), "d' are in folders inside it: move them up")
    files["c/inner/1.png"] = files.pop("d/inner/1.png")  # beside other images of the class
    refused(write_files(tmp_path / "both", files), "c' are in folders inside it: move them up")


@pytest.mark.parametrize("name", ["d/000.webp", "c/000.TIF"])
def test_images_of_other_kinds_are_not_left_out(tmp_path, name):
    files = make.pictures({"": TINY["train"]})
    files[name] = b"an image"
    refused(write_files(tmp_path, files), "is an image of a kind that is not read: convert it to PNG")


def test_test_images_of_another_kind_are_not_left_out(tmp_path):
    files = make.pictures({"train": TINY["train"]})
    files |= {"test/a/000.png": next(iter(files.values())), "test/b/000.webp": b"an image"}
    refused(write_files(tmp_path, files), "is an image of a kind that is not read: convert it to PNG")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("Train/a/1.png", "is not the only folder of train images"),
        ("e/1.png", "e' holds images beside test/train: move or remove it"),
        ("val/1.png", "val' are in no folder of a class: move each into one"),
        ("test/1.png", "test' are in no folder of a class: move each into one"),
    ],
)
def test_images_beside_the_parts_are_not_left_out(tmp_path, other, message):
    files = make.pictures(TINY)
    files[other] = next(iter(files.values()))
    refused(write_files(tmp_path, files), message)


def test_a_rare_class_keeps_an_image_to_train(tmp_path):
    labels = np.repeat([0, 1, 2], [20, 1, 20])
    for seed in range(8):  # wherever the image of class 1 stands
        order = np.random.default_rng(seed).permutation(41)
        np.savez(tmp_path / f"{seed}.npz", images=np.full((41, 4, 4), 255, np.uint8), labels=labels[order])
        dataset = hlf.data.load(tmp_path / f"{seed}.npz")
        assert np.bincount(dataset.train.labels, minlength=3).min() == 1
        assert len(dataset.train) + len(dataset.test) == 41


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_pixels_that_are_0_or_1_are_black_or_white(tmp_path, dtype):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 2, (40, 8, 8)).astype(dtype), random.integers(0, 3, 40)
    np.savez(tmp_path / "silhouettes.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert set(np.unique(hlf.data.load(tmp_path / "silhouettes.npz").train.images)) == {0, 1}
