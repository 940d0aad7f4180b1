"""Variational autoencoders: what they look like, how they learn, how they are stored."""

import numpy as np
import oracles
import pytest

from hlf_np import UserError
from hlf_np.autodiff import Tensor
from hlf_np.data.dataset import Split
from hlf_np.layers import BatchNorm, TransposedConvolution
from hlf_np.manifolds import Vae, VaeConfig, class_vaes, learning, load_vae, quality, train_vae
from hlf_np.manifolds.oracle import ClassifierConfig, train_once
from hlf_np.models.architectures import Architecture, Kind
from hlf_np.optim import AdamConfig
from hlf_np.programs.vae_training import VaeTraining
from hlf_np.training import TrainingConfig

TINY = VaeConfig(channels=(4, 8, 8), latent_dimensions=3, epochs=2, batch_size=10)


def patient(weight):
    """Settings under which 15 images are learned, in 60 steps."""
    return VaeConfig(TINY.channels, 3, weight, epochs=60, batch_size=15, adam=AdamConfig(0.02, decay=0.98))


def assert_same_state(first, second):
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.fixture(scope="module")
def blobs(split):
    """The images of class 2."""
    return split.images[split.labels == 2]


@pytest.fixture(scope="module")
def learned(blobs):
    """A VAE of class 2, trained for a moment; not to be changed."""
    return train_vae(blobs, TINY)


# --- shapes and modes -----------------------------------------------------------------------------------------


def test_the_default_vae_halves_28_to_3_and_doubles_it_back():
    vae = Vae(VaeConfig())
    shapes = {name: array.shape for name, array in vae.state_dict().items() if array.ndim > 1}
    assert shapes == {
        "encoder.0.weight": (16, 1, 4, 4),
        "encoder.3.weight": (32, 16, 4, 4),
        "encoder.6.weight": (64, 32, 4, 4),
        "encoder.10.weight": (20, 576),
        "decoder.0.weight": (576, 10),
        "decoder.4.weight": (64, 32, 4, 4),
        "decoder.7.weight": (32, 16, 4, 4),
        "decoder.10.weight": (16, 1, 4, 4),
    }
    doublings = [layer for layer in vae.decoder.layers if isinstance(layer, TransposedConvolution)]
    assert [layer.output_padding for layer in doublings] == [1, 0, 0]
    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    codes = vae.encode(images)
    assert (codes.shape, codes.dtype) == ((3, 10), np.float32)
    decoded = vae.decode(codes)
    assert (decoded.shape, decoded.dtype) == (images.shape, np.float32)


@pytest.mark.parametrize("shape", [(32, 32, 3), (27, 27, 1), (8, 8, 2)])
def test_other_images_come_back_in_their_size(shape):
    vae = Vae(VaeConfig(channels=(2, 3), latent_dimensions=4, image_shape=shape))
    images = np.random.default_rng(0).random((2, *shape), np.float32)
    assert vae(Tensor(images), training=True).shape == images.shape


def test_decoded_images_are_images_however_far_the_code(learned):
    images = learned.decode(100 * np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32))
    assert images.min() >= 0
    assert images.max() <= 1


def test_evaluation_uses_running_statistics_and_changes_nothing(learned, blobs):
    before = learned.state_dict()
    codes = learned.encode(blobs)
    np.testing.assert_allclose(learned.encode(blobs[3:5]), codes[3:5], rtol=0, atol=1e-6)
    np.testing.assert_allclose(learned.decode(codes[3:5]), learned.decode(codes)[3:5], rtol=0, atol=1e-6)
    for name, array in learned.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    norms = [layer for layer in learned.decoder.layers if isinstance(layer, BatchNorm)]
    assert all((norm.buffers["running_var"] != 1).all() for norm in norms)


def test_codes_and_images_are_those_of_the_layers_and_the_same_bits_in_any_batch(learned, blobs):
    codes = learned.encode(blobs)
    images = learned.decode(codes)
    np.testing.assert_allclose(codes, learned.posterior(Tensor(blobs))[0].data, rtol=0, atol=1e-5)
    np.testing.assert_allclose(images, learned.decoder(Tensor(codes)).data, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(learned.encode(blobs[:4]), codes[:4])
    np.testing.assert_array_equal(learned.decode(codes[:4]), images[:4])
    assert learned.encode(blobs[:0]).shape == (0, 3)
    assert learned.decode(codes[:0]).shape == (0, 28, 28, 1)


def test_the_losses_are_those_of_reparameterised_codes(blobs):
    """Step by step, from the parts."""
    vae = Vae(TINY)
    noise = np.random.default_rng(0).standard_normal((len(blobs), 3)).astype(np.float32)
    errors, divergences = learning.losses(vae, Tensor(blobs), Tensor(noise))
    average, log_variance = np.split(vae.encoder(Tensor(blobs), training=True).data, 2, axis=1)
    codes = average + np.exp(log_variance / 2) * noise
    decoded = vae.decoder(Tensor(codes), training=True).data
    np.testing.assert_allclose(errors.data, oracles.absolute_error(decoded, blobs), rtol=1e-5)
    expected = oracles.gaussian_divergence(average, log_variance)
    np.testing.assert_allclose(divergences.data, expected, rtol=1e-3, atol=1e-6)  # e^v - v - 1 cancels near v = 0


# --- training -------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_learns_more_than_one_image(blobs):
    log = []
    vae = train_vae(blobs, patient(3), progress=log.append)
    assert [entry.epoch for entry in log] == list(range(1, 61))
    weighted = [3 * entry.reconstruction_error + entry.divergence for entry in log]
    assert weighted[-1] < weighted[0] / 3
    found = quality.measure(vae, blobs)
    assert found.reconstruction_error < found.average_error
    assert found.active_latents > 0


def test_the_seed_decides_everything(learned, blobs):
    assert_same_state(train_vae(blobs, TINY), learned)
    other = train_vae(blobs, TINY, seed=1).state_dict()
    assert any((array != other[name]).any() for name, array in learned.state_dict().items())


def test_threads_change_nothing(blobs, threads):
    threads(1)
    one = train_vae(blobs, TINY)
    threads(2)
    assert_same_state(train_vae(blobs, TINY), one)


def test_a_large_weight_reconstructs_and_a_small_one_collapses(blobs):
    sharp, collapsed = (quality.measure(train_vae(blobs, patient(weight)), blobs) for weight in (3, 1e-4))
    assert sharp.divergence > 2
    assert collapsed.divergence < 0.1
    assert collapsed.active_latents == 0
    assert sharp.reconstruction_error < collapsed.reconstruction_error


def test_what_cannot_be_learned_from_is_refused(blobs):
    with pytest.raises(UserError, match="no images"):
        train_vae(blobs[:0], TINY)
    with pytest.raises(UserError, match="shape"):
        train_vae(blobs[:, :20], TINY)
    with pytest.raises(UserError, match="outside"):
        train_vae(blobs + 1, TINY)
    wild = VaeConfig(TINY.channels, 3, adam=AdamConfig(learning_rate=1e30))
    with pytest.raises(UserError, match="no longer finite in epoch 2: lower the learning rate"):
        train_vae(blobs, wild)


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": ()},
        {"channels": (4, 0)},
        {"latent_dimensions": 0},
        {"reconstruction_weight": 0},
        {"reconstruction_weight": float("nan")},
        {"epochs": -1},
        {"batch_size": 0},
        {"image_shape": (28, 32, 1)},
        {"image_shape": (7, 7, 1)},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError):
        VaeConfig(**settings)


# --- files ----------------------------------------------------------------------------------------------------


def test_a_saved_vae_comes_back(learned, blobs, tmp_path):
    learned.save(tmp_path / "new" / "vae.npz")
    again = load_vae(str(tmp_path / "new" / "vae.npz"))
    assert again.config == TINY
    assert_same_state(again, learned)
    np.testing.assert_array_equal(again.encode(blobs), learned.encode(blobs))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: None, id="missing"),
        pytest.param(lambda path: path.write_bytes(b"no numbers"), id="text"),
        pytest.param(lambda path: np.savez(path, vae=np.array("[1]")), id="list"),
        pytest.param(lambda path: np.savez(path, vae=np.array('{"epochs": 3}')), id="settings missing"),
        pytest.param(lambda path: np.savez(path, vae=np.array([{}], object)), id="pickled"),
        pytest.param(lambda path: Vae(TINY).save(path) or path.write_bytes(path.read_bytes()[:-99]), id="truncated"),
    ],
)
def test_what_is_not_a_vae_file_is_refused(spoil, tmp_path):
    spoil(tmp_path / "vae.npz")
    with pytest.raises(UserError, match=r"vae.npz'.*delete it"):
        load_vae(tmp_path / "vae.npz")


def test_weights_of_another_vae_are_refused(learned):
    other = Vae(VaeConfig(channels=(4, 8, 8), latent_dimensions=4))
    with pytest.raises(UserError, match="this VAE needs"):
        other.load_state_dict(learned.state_dict())


# --- one for each class ---------------------------------------------------------------------------------------


def test_class_vaes_are_trained_once_each_on_its_own_class(split, tmp_path):
    part = split.take(np.flatnonzero(split.labels < 2))
    log = []
    vaes = class_vaes(part, 2, TINY, folder=tmp_path, progress=log.append)
    assert [(entry.name, entry.epoch) for entry in log] == [(f"class {k}", e) for k in (0, 1) for e in (1, 2)]
    again = class_vaes(part, 2, TINY, folder=tmp_path, progress=log.append)
    assert len(log) == 4
    for first, second in zip(vaes, again, strict=True):
        assert_same_state(first, second)
    # what other classes are there, and in which order, does not matter
    alone = class_vaes(Split(part.images[part.labels == 0], part.labels[part.labels == 0]), 1, TINY)
    assert_same_state(alone[0], vaes[0])


def test_each_class_draws_its_own_random_numbers(split):
    first, second = class_vaes(split.take(np.flatnonzero(split.labels < 2)), 2, VaeConfig(TINY.channels, 3, epochs=0))
    weight = "encoder.0.weight"
    assert (first.state_dict()[weight] != second.state_dict()[weight]).any()


def test_other_settings_seeds_or_images_are_trained_anew(split, tmp_path):
    part = split.take(np.flatnonzero(split.labels == 0))
    quick = VaeConfig(TINY.channels, 3, epochs=0)
    class_vaes(part, 1, quick, folder=tmp_path)
    class_vaes(part, 1, VaeConfig(TINY.channels, 3, 2, epochs=0), folder=tmp_path)
    class_vaes(part, 1, quick, seed=1, folder=tmp_path)
    class_vaes(part.take(slice(None, None, -1)), 1, quick, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    class_vaes(part, 1, quick, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(("side", "used"), [(4, 5), (8, 6)])  # 4 -> 2 -> 1 pixels
def test_an_image_left_alone_is_left_out_if_batch_norm_cannot_normalize_it(monkeypatch, side, used):
    drawn = []
    step = VaeTraining.step
    monkeypatch.setattr(VaeTraining, "step", lambda self, x, *rest: drawn.append(x.copy()) or step(self, x, *rest))
    images = np.linspace(0, 1, 6 * side * side, dtype=np.float32).reshape(6, side, side, 1)
    config = VaeConfig((2, 2), 3, epochs=20, batch_size=5, image_shape=(side, side, 1))
    log = []
    train_vae(images, config, progress=log.append)
    seen = np.concatenate(drawn).reshape(20, used, -1)
    assert len(np.unique(seen[:, :, 0])) == 6  # not always the same one
    assert all(np.isfinite(entry.reconstruction_error) for entry in log)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 5), (4, 1)])
def test_a_batch_too_small_for_batch_norm_is_refused(count, batch_size):
    config = VaeConfig((2, 2), 3, epochs=1, batch_size=batch_size, image_shape=(4, 4, 1))
    with pytest.raises(UserError, match=r"needs at least 2 values of each channel .* use more images in each batch"):
        train_vae(np.zeros((count, 4, 4, 1), np.float32), config)


def test_a_class_without_images_and_a_damaged_file_are_refused(split, tmp_path):
    part = split.take(np.flatnonzero(split.labels == 0))
    with pytest.raises(UserError, match="no images of class 1"):
        class_vaes(part, 2, VaeConfig(TINY.channels, 3, epochs=0))
    with pytest.raises(UserError, match="labels must lie between 0 and 0"):
        class_vaes(split, 1, TINY)
    class_vaes(part, 1, VaeConfig(TINY.channels, 3, epochs=0), folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a VAE file, or is damaged: delete it"):
        class_vaes(part, 1, VaeConfig(TINY.channels, 3, epochs=0), folder=tmp_path)


def test_a_stored_network_with_other_settings_is_not_used_again(split, tmp_path):
    part = split.take(np.flatnonzero(split.labels == 0))
    class_vaes(part, 1, VaeConfig(TINY.channels, 3, epochs=0), folder=tmp_path)
    with pytest.raises(UserError, match="is a VAE with other settings: delete it, or repeat the run"):
        class_vaes(part, 1, VaeConfig(TINY.channels, 2, epochs=0), folder=tmp_path, reuse=True)
    shape = part.images.shape[1:]
    small, large = (
        ClassifierConfig(Architecture(Kind.MLP, (units,), 2, shape), TrainingConfig(epochs=0)) for units in (2, 3)
    )
    train_once("oracle", small, part, folder=tmp_path)
    with pytest.raises(UserError, match="has another architecture: delete it, or repeat the run"):
        train_once("oracle", large, part, folder=tmp_path, reuse=True)


# --- quality --------------------------------------------------------------------------------------------------


def test_quality_is_measured_as_defined(learned, blobs):
    found = quality.measure(learned, blobs)
    errors = oracles.absolute_error(learned.decode(learned.encode(blobs)), blobs)
    assert found.reconstruction_error == pytest.approx(errors.mean(), rel=1e-5)
    average, log_variance = learned.posterior(Tensor(blobs))
    per_latent = [oracles.gaussian_divergence(average.data[:, [k]], log_variance.data[:, [k]]).mean() for k in range(3)]
    assert found.divergence == pytest.approx(sum(per_latent), rel=1e-3)
    assert found.active_latents == sum(value > 0.1 for value in per_latent)
    median = np.broadcast_to(np.median(blobs, axis=0), blobs.shape)
    assert found.average_error == pytest.approx(oracles.absolute_error(median, blobs).mean(), rel=1e-5)
