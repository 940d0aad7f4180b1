"""Arrays of any memory layout and type, and clear errors for those that are not supported."""

from dataclasses import replace

import numpy as np
import pytest

from hlf_np import UserError, attacks, models
from hlf_np.attacks import PGD, CarliniWagner
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Codes, Split
from hlf_np.engine import Engine
from hlf_np.manifolds import VaeConfig, class_vaes, quality, train_vae
from hlf_np.manifolds.distance import NeighbourSearch, project, subspace_distances
from hlf_np.manifolds.oracle import labels_kept
from hlf_np.spaces import EMNIST_BOX, ImageBall, LearnedManifold, Transformations, TrueManifold
from hlf_np.support.checks import check_images, check_labels
from hlf_np.training import TrainingConfig, train
from hlf_np.trainings import Perturbation

LAYOUTS = {
    "columns first": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.swapaxes(0, -1)).swapaxes(0, -1),
    "channels first": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1),
    "backwards": lambda a: np.flip(np.flip(a).copy()),
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "not aligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "another byte order": lambda a: a.astype(a.dtype.newbyteorder()),
}
TYPES = {  # of images, of labels
    "float64, int32": lambda a: a.astype(np.float64 if a.dtype.kind == "f" else np.int32),
    "longdouble, uint8": lambda a: a.astype(np.longdouble if a.dtype.kind == "f" else np.uint8),
    "float32, uint64": lambda a: a if a.dtype.kind == "f" else a.astype(np.uint64),
}
every_kind = pytest.mark.parametrize("kind", (LAYOUTS | TYPES).values(), ids=LAYOUTS | TYPES)
SETTINGS = {"steps": 3, "step_size": 0.05, "restarts": 2}
ATTACKS = {  # functions of two models, a split and a space
    "pgd": lambda m, _, s, space: attacks.pgd(m, s.images, s.labels, space, s.codes, **SETTINGS),
    "pgd by autodiff": lambda m, _, s, space: attacks.pgd(
        m, s.images, s.labels, space, s.codes, engine="autodiff", rule="sign", **SETTINGS
    ),
    "fgsm": lambda m, _, s, space: attacks.FGSM().find(m, s, space),
    "carlini_wagner": lambda m, _, s, space: CarliniWagner(iterations=5).find(m, s, space),
    "random_search": lambda m, _, s, space: attacks.RandomSearch(5).find(m, s, space),
    "transfer": lambda m, other, s, space: attacks.Transfer(other, PGD(**SETTINGS)).find(m, s, space),
}
TINY = VaeConfig(channels=(2, 4), latent_dimensions=3, epochs=1, batch_size=5)


@pytest.fixture(scope="module")
def spaces(fonts, split):
    return {
        "image": ImageBall(0.2),
        "image, l2": ImageBall(1.5, "l2"),
        "true manifold": TrueManifold(fonts),
        "transformations": Transformations(EMNIST_BOX),
        "learned manifold": LearnedManifold(class_vaes(split, 10, TINY)),
    }


def arranged(split, kind):
    """Return the same split with another layout or type of all its arrays."""
    return Split(kind(split.images), kind(split.labels), Codes(kind(split.codes.font), kind(split.codes.parameters)))


def assert_same(actual, expected):
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(actual, name), value, err_msg=name)
        assert getattr(actual, name).dtype == value.dtype, name


@every_kind
@pytest.mark.parametrize("name", ["image", "image, l2", "true manifold", "transformations", "learned manifold"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks_find_the_same_bits(trained, split, spaces, kind, name, attack):
    other, part = models.cnn(widths=(4, 8), hidden_units=12), split.take(slice(12))
    assert_same(attack(trained, other, arranged(part, kind), spaces[name]), attack(trained, other, part, spaces[name]))


@every_kind
@pytest.mark.parametrize("name", ["image", "true manifold", "transformations", "learned manifold"])
def test_charts_are_the_same_bits(split, spaces, kind, name):
    part = split.take(slice(12))
    charts = [spaces[name].chart(s.images, s.labels, s.codes) for s in (arranged(part, kind), part)]
    np.testing.assert_array_equal(charts[0].start, charts[1].start)
    assert charts[0].start.dtype == np.float32
    moved = charts[1].start + np.float32(0.01)
    gradients = []
    for chart, codes in zip(charts, (kind(moved), moved), strict=True):
        variable = Tensor(np.asarray(codes, np.float32), requires_grad=True)
        chart.decode(variable).backward()
        gradients.append(variable.gradient)
    np.testing.assert_array_equal(*gradients)
    np.testing.assert_array_equal(charts[0].decoded(kind(moved)), charts[1].decoded(moved))


@every_kind
@pytest.mark.parametrize("engine", Engine)
def test_training_ends_in_the_same_bits(split, kind, engine):
    share = Perturbation(ImageBall(0.1), PGD(steps=1, stop_early=False))
    config = TrainingConfig((share,), epochs=1, batch_size=30, engine=engine)
    states = []
    for data in (arranged(split, kind), split):
        model = models.cnn(widths=(2, 4), hidden_units=5)
        train(model, data, config=config)
        states.append(model.state_dict())
    for name, array in states[1].items():
        np.testing.assert_array_equal(states[0][name], array, err_msg=name)


@every_kind
def test_vaes_are_the_same_bits(split, kind):
    images = split.images[:20]
    actual, expected = (train_vae(data, TINY) for data in (kind(images), images))
    for name, array in expected.state_dict().items():
        np.testing.assert_array_equal(actual.state_dict()[name], array, err_msg=name)
    np.testing.assert_array_equal(actual.encode(kind(images)), expected.encode(images))
    codes = expected.encode(images)
    np.testing.assert_array_equal(actual.decode(kind(codes)), expected.decode(codes))
    assert quality.measure(actual, kind(images)) == quality.measure(expected, images)


@every_kind
def test_distances_are_the_same_bits(fonts, split, kind):
    images, others = split.images[:10], split.images[10:60]
    chart = TrueManifold(fonts).chart(images, split.labels[:10], split.codes.take(slice(10)))
    moved = np.clip(images + np.float32(0.1), 0, 1)
    assert_same(project(kind(moved), chart, steps=2), project(moved, chart, steps=2))
    arrays = moved, images, others
    np.testing.assert_array_equal(
        subspace_distances(*map(kind, arrays), neighbours=7), subspace_distances(*arrays, neighbours=7)
    )
    np.testing.assert_array_equal(
        NeighbourSearch(kind(others)).nearest(kind(moved), 5), NeighbourSearch(others).nearest(moved, 5)
    )


def test_distances_of_integers_are_refused(split):
    whole = (split.images * 255).astype(np.uint8)
    with pytest.raises(UserError, match="floating-point images, not uint8"):
        NeighbourSearch(split.images).nearest(whole, 3)
    with pytest.raises(UserError, match="floating-point images, not uint8"):
        subspace_distances(split.images, split.images, whole, 3)
    with pytest.raises(UserError, match="floating-point images, not uint8"):
        project(whole, ImageBall().chart(split.images, split.labels, None))


def test_arguments_are_not_changed(trained, split, spaces):
    part = split.take(slice(12))
    before = [array.copy() for array in (part.images, part.labels, part.codes.parameters)]
    for space in spaces.values():
        for attack in ATTACKS.values():
            attack(trained, trained, part, space)
    for array, was in zip((part.images, part.labels, part.codes.parameters), before, strict=True):
        np.testing.assert_array_equal(array, was)


# --- supported and unsupported arrays -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f4"])
def test_images_of_any_floating_point_type_become_float32(dtype):
    images = check_images(np.full((2, 4, 4, 1), 0.75, dtype), (4, 4, 1))
    assert (images.dtype, images.flags.c_contiguous) == (np.dtype("float32"), True)
    np.testing.assert_array_equal(images, np.float32(0.75))


def test_arrays_that_need_no_conversion_are_not_copied(split):
    assert check_images(split.images) is split.images
    assert check_labels(split.labels, 10, len(split)) is split.labels


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64, ">i4"])
def test_labels_of_any_width_become_int64(dtype):
    labels = check_labels(np.array([0, 9, 3], dtype), 10, 3)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, [0, 9, 3])


def outside(value, dtype=np.float32):
    images = np.zeros((2, 4, 4, 1), dtype)
    images[1, 2, 3, 0] = value
    return images


ABOVE = np.nextafter(np.float32(1), np.float32(2))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 4, 4, 1)).tolist(), "must be a NumPy array, not list: use numpy.array(images)"),
        (np.zeros((2, 4, 4, 1), np.uint8), "not uint8: use images.astype(numpy.float32) / 255"),
        (np.zeros((2, 4, 4, 1), bool), "not bool: use images.astype(numpy.float32)"),
        (np.zeros((2, 4, 4, 1), np.int64), "not int64: scale them"),
        (np.zeros((2, 4, 4, 1), complex), "not complex128"),
        (np.zeros((2, 4, 4)), "shape (N, 4, 4, 1), not (2, 4, 4): use images[..., None]"),
        (np.zeros((2, 1, 4, 4)), "shape (N, 4, 4, 1), not (2, 1, 4, 4): use images.transpose(0, 2, 3, 1)"),
        (np.zeros((2, 5, 4, 1)), "shape (N, 4, 4, 1), not (2, 5, 4, 1)"),
        (outside(ABOVE), "outside [0, 1] (from 0.0 to 1.0000001)"),
        (outside(1 + 2**-52, float), "outside [0, 1] (from 0.0 to 1.0000000000000002)"),
        (outside(-1e-9, float), "outside [0, 1] (from -1e-09 to 0.0)"),
        (outside(255), "outside [0, 1] (from 0.0 to 255.0): scale them"),
        (outside(np.nan), "hold NaN or infinite values"),
    ],
)
def test_other_images_are_refused_in_one_line(images, message):
    with pytest.raises(UserError) as refusal:
        check_images(images, (4, 4, 1))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "must be a NumPy array, not list: use numpy.array(labels)"),
        (np.eye(10)[:3], "shape (3,), one label per image, not (3, 10): use labels.argmax(axis=1)"),
        (np.zeros((3, 1), np.int64), "not (3, 1): use labels[:, 0]"),
        (np.zeros(4, np.int64), "shape (3,), one label per image, not (4,)"),
        (np.zeros(3), "integers, not float64: use labels.astype(numpy.int64)"),
        (np.zeros(3, bool), "integers, not bool: use labels.astype(numpy.int64)"),
        (np.array([0, 1, 10], np.uint8), "between 0 and 9, found 0 to 10"),
        (np.array([0, 1, -1], np.int8), "between 0 and 9, found -1 to 1"),
        (np.array([0, 1, 2**64 - 1], np.uint64), "between 0 and 9, found 0 to 18446744073709551615"),
    ],
)
def test_other_labels_are_refused_in_one_line(labels, message):
    with pytest.raises(UserError) as refusal:
        check_labels(labels, 10, 3)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "spoil", [lambda labels: labels[:, None], lambda labels: np.eye(10)[labels], np.ndarray.tolist]
)
def test_labels_that_would_be_compared_in_another_way_are_refused_everywhere(trained, split, spoil):
    part = split.take(slice(12))
    bad = replace(part, labels=spoil(part.labels))
    for attack in ATTACKS.values():
        with pytest.raises(UserError, match="labels must"):
            attack(trained, trained, bad, ImageBall(0.1))
    with pytest.raises(UserError, match="labels must"):
        train(models.cnn(), bad)
    with pytest.raises(UserError, match="labels must"):
        class_vaes(bad, 10, TINY)
    with pytest.raises(UserError, match="labels must"):
        labels_kept(trained, bad.images, bad.labels)
