"""The explorer's JavaScript against Python: logits, gradients, warps, decoders, and the steps of an attack."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import small_cnn

import hlf_np
from hlf_np import models
from hlf_np.attacks import PGD
from hlf_np.autodiff import Tensor
from hlf_np.manifolds.distance import project
from hlf_np.models.architectures import Architecture, Kind
from hlf_np.models.vae import Vae, VaeConfig
from hlf_np.operations import cross_entropy
from hlf_np.report.explorer.export import described
from hlf_np.spaces import ImageBall, LearnedManifold, TrueManifold

SCRIPTS = Path(hlf_np.__file__).parent / "report" / "explorer"
node = shutil.which("node") or shutil.which("nodejs")
pytestmark = pytest.mark.skipif(not node, reason="Node.js is not installed")


def in_javascript(folder, data, code):
    """Run code after the explorer's scripts, with `data`; return what its last expression is."""
    scripts = [(SCRIPTS / name).read_text() for name in ("network.js", "spaces.js", "unpack.js")]
    (folder / "data.json").write_text(json.dumps(data))
    main = f"console.log(JSON.stringify((() => {{ {code} }})()));"
    read = f"const data = JSON.parse(require('fs').readFileSync({str(folder / 'data.json')!r}));"
    (folder / "main.js").write_text("\n".join([*scripts, read, "const list = (a) => Array.from(a);", main]))
    done = subprocess.run([node, str(folder / "main.js")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def shuffled(network):
    """Give a network weights and statistics that are not the initial ones."""
    random = np.random.default_rng(0)
    for name, array in network.named_arrays():
        array += random.uniform(0.05, 0.3, array.shape) if "var" in name else random.normal(0, 0.1, array.shape)
    return network


NETWORKS = {
    "cnn": Architecture(Kind.CNN, (16, 32, 64)),
    "mlp": Architecture(Kind.MLP, (64, 64)),
    "vgg": Architecture(Kind.VGG, (4, 8), hidden_units=16),
    "resnet": Architecture(Kind.RESNET, (4, 8), blocks=(1, 2)),
    "colour": Architecture(Kind.CNN, (4, 8), 5, (13, 10, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients_are_those_of_python(tmp_path, name):
    architecture = NETWORKS[name]
    model = models.Model.from_architecture(architecture, 3)
    shuffled(model.network)
    images = np.random.default_rng(1).random((4, *architecture.image_shape), np.float32)
    labels = np.arange(4) % architecture.classes
    pixels = Tensor(images, requires_grad=True)
    logits = model.forward(pixels)
    cross_entropy(logits, labels).backward()
    data = {
        "layers": described(model.network, architecture.image_shape, exact=True)[0],
        "images": images.transpose(0, 3, 1, 2).reshape(4, -1).tolist(),
        "labels": labels.tolist(),
    }
    code = """
        const network = unpackNetwork(data.layers);
        return data.images.map((image, i) => {
          const logits = network.forward(Float32Array.from(image));
          return [list(logits), list(network.backward(crossEntropy(logits, data.labels[i]).gradient))];
        });"""
    for i, (found, gradient) in enumerate(in_javascript(tmp_path, data, code)):
        np.testing.assert_allclose(found, logits.data[i], rtol=1e-4, atol=1e-4)
        expected = pixels.gradient[i].transpose(2, 0, 1).ravel()
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


def test_a_decoder_and_its_gradient_are_those_of_python(tmp_path):
    vae = Vae(VaeConfig(channels=(4, 8, 16)), 2)
    shuffled(vae.decoder)
    codes = Tensor(np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32), requires_grad=True)
    images = vae.decoder(codes)
    weights = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    images.backward(weights)
    data = {
        "layers": described(vae.decoder, (10,), exact=True)[0],
        "codes": codes.data.tolist(),
        "weights": weights.reshape(3, -1).tolist(),
    }
    code = """
        const decoder = unpackNetwork(data.layers);
        return data.codes.map((code, i) => [
          list(decoder.forward(Float32Array.from(code))), list(decoder.backward(Float32Array.from(data.weights[i]))),
        ]);"""
    for i, (image, gradient) in enumerate(in_javascript(tmp_path, data, code)):
        np.testing.assert_allclose(image, images.data[i].ravel(), atol=1e-5)
        np.testing.assert_allclose(gradient, codes.gradient[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["adam", "sign"])
@pytest.mark.parametrize("kind", ["image", "true manifold", "learned manifold"])
def test_the_first_steps_of_an_attack_are_those_of_python(tmp_path, trained, split, fonts, kind, rule):
    right = split.take(np.flatnonzero(trained.predict(split.images) == split.labels)[:3])
    vaes = [Vae(VaeConfig(channels=(4, 8)), seed) for seed in range(10)]
    space = {
        "image": ImageBall(0.05),
        "true manifold": TrueManifold(fonts, epsilon=0.1),
        "learned manifold": LearnedManifold(vaes, epsilon=0.1),
    }[kind]
    chart = space.chart(right.images, right.labels, right.codes)
    settings = {"step_size": 0.01, "rule": rule, "start": "image", "stop_early": False}
    results = [
        PGD(steps, **settings, engine="autodiff").find(trained, right, space) for steps in range(1, 11)
    ]  # the best of the first steps: compared where the loss rises with every step
    data = {
        "layers": described(trained.network, (28, 28, 1), exact=True)[0],
        "decoders": [described(vaes[label].decoder, (10,), exact=True)[0] for label in right.labels],
        "starts": chart.start.reshape(3, -1).tolist(),
        "labels": right.labels.tolist(),
        "lower": np.broadcast_to(chart.lower, chart.start.shape[1:]).ravel().tolist(),
        "upper": np.broadcast_to(chart.upper, chart.start.shape[1:]).ravel().tolist(),
        "letters": chart.images.reshape(3, -1).tolist() if kind == "true manifold" else [],
        "kind": kind, "rule": rule, "epsilon": space.radius,
    }  # fmt: skip
    code = """
        const network = unpackNetwork(data.layers), box = { lower: data.lower, upper: data.upper };
        return data.starts.map((values, i) => {
          const start = Float32Array.from(values);
          const space = data.kind === "image" ? imageSpace(start, data.epsilon)
            : data.kind === "true manifold"
              ? warpSpace(Float32Array.from(data.letters[i]), 28, 28, start, box, data.epsilon)
              : codeSpace(unpackNetwork(data.decoders[i]), start, box, data.epsilon);
          const step = makeAttack(network, space, data.labels[i], 0.01, data.rule), codes = [];
          for (let k = 0; k < 10; k++) codes.push(list(step().code));
          return codes;
        });"""
    compared = 0
    for i, codes in enumerate(in_javascript(tmp_path, data, code)):
        for steps, result in enumerate(results, start=1):
            if result.iterations[i] == steps:  # the last step is the best
                expected = (chart.start[i] + result.perturbations[i]).ravel()
                np.testing.assert_allclose(codes[steps - 1], expected, atol=1e-3)
                compared += 1
    assert compared >= 20


def test_distances_to_the_manifold_are_those_of_python(tmp_path, fonts, split):
    few, space = split.take(np.arange(6)), TrueManifold(fonts, epsilon=0.1)
    chart = space.chart(few.images, few.labels, few.codes)
    noise = np.random.default_rng(0).normal(0, 0.05, few.images.shape).astype(np.float32)
    moved = chart.decoded(space.project(chart, chart.start + 0.1))
    images = np.concatenate([(few.images[:3] + noise[:3]).clip(0, 1), moved[3:]])
    data = {
        "starts": chart.start.tolist(), "lower": chart.lower.tolist(), "upper": chart.upper.tolist(),
        "letters": chart.images.reshape(6, -1).tolist(), "images": images.reshape(6, -1).tolist(),
    }  # fmt: skip
    code = """
        const box = { lower: data.lower, upper: data.upper };
        return data.images.map((image, i) => {
          const start = Float32Array.from(data.starts[i]);
          const space = warpSpace(Float32Array.from(data.letters[i]), 28, 28, start, box, Infinity);
          return distanceTo(space, Float32Array.from(image), [start]);
        });"""
    expected = project(images, chart).distances
    assert expected[:3].min() > 0.5
    np.testing.assert_allclose(in_javascript(tmp_path, data, code), expected, rtol=0.02, atol=0.02)


def test_integers_are_as_good_as_floats(tmp_path, trained, split):
    images = split.images[:50]
    data = {
        "layers": described(trained.network, (28, 28, 1), exact=False)[0],
        "images": images.reshape(50, -1).tolist(),
    }
    code = "const n = unpackNetwork(data.layers); return data.images.map((x) => list(n.forward(Float32Array.from(x))));"
    found = np.array(in_javascript(tmp_path, data, code))
    expected = trained.logits(images)
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


def test_unknown_layers_are_named():
    from hlf_np.layers import Tanh
    from hlf_np.support.errors import UserError

    with pytest.raises(UserError, match="does not know the layer"):
        described(Tanh(), (3,), exact=True)
    assert described(small_cnn().network, (28, 28, 1), exact=True)[1] == (10,)
