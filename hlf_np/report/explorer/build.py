"""Build the explorer: choose models and images of a run, and put them into a page together with the JavaScript."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Sequence
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from hlf_np import layers as nn
from hlf_np.data.dataset import Split
from hlf_np.experiments.grid.prepare import source_of, spaces_of
from hlf_np.experiments.results import Cell, CellResult, by_training
from hlf_np.experiments.storage.store import Store
from hlf_np.manifolds import Vae, count_vaes, stored_vaes
from hlf_np.models import Model, load
from hlf_np.report.explorer.export import described, integers_and_scale
from hlf_np.report.figures.pictures import training_style
from hlf_np.spaces import PAPER_EPSILONS, LearnedManifold, Norm
from hlf_np.support.arrays import Floats, Integers
from hlf_np.support.errors import UserError
from hlf_np.trainings import Training

SCRIPTS = ("network.js", "spaces.js", "unpack.js", "page.js")
IMAGES_PER_CLASS = 3
MAX_IMAGES = 30


def explorer(store: Store, results: Sequence[CellResult]) -> str:
    """Return the explorer of a run as an HTML page without external resources.

    Parameters
    ----------
    store : Store
        The results folder.
    results : sequence of CellResult
        Its finished cells.

    Returns
    -------
    str
        The page, with the model of the largest N and the first seed of each training.

    Raises
    ------
    UserError
        If the page cannot show these models or images.
    """
    config, source = store.config, source_of(store.config)
    test = source.dataset(0, min(1000, source.test_size)).test
    chosen = _chosen_models(store, results)
    if not chosen or not len(test):
        raise UserError("there is no trained model to explore: finish a run first")
    recognised = np.sum([model.predict(test.images) == test.labels for _, _, model in chosen], axis=0)
    shown = test.take(_clearest_of_each_class(test.labels, recognised))
    pairs = zip(shown.images, shown.labels, strict=True)
    images: list[dict[str, Any]] = [{"label": int(label), "pixels": _bytes(image)} for image, label in pairs]
    models = [_described_model(training, cell, model, shown, results) for training, cell, model in chosen]
    fonts, vaes, code_box = source.manifold, tuple[Vae, ...](), None
    if fonts and shown.codes:
        letters = fonts.letters[shown.codes.font.astype(np.int64) * fonts.classes + shown.labels]
        for image, letter, parameters in zip(images, letters, shown.codes.parameters, strict=True):
            image |= {"prototype": _bytes(letter), "parameters": _numbers(parameters)}
    if config.n_vae and count_vaes(store.manifolds) == len(config.classes):
        vaes = stored_vaes(store.manifolds, len(config.classes))
        spaces = spaces_of(config, source, vaes)
        manifold = next(space for space in spaces if isinstance(space, LearnedManifold))
        fitted = manifold.fitted(test.images, test.labels)
        code_box = _box(fitted.lower, fitted.upper)
        for image, code in zip(images, manifold.encode(shown.images, shown.labels), strict=True):
            image["code"] = _numbers(code)
    data = {
        "shape": list(config.architecture.image_shape),
        "classes": list(config.classes),
        "models": models,
        "images": images,
        "box": _box(fonts.box.lower, fonts.box.upper) if fonts else None,
        "decoders": [described(vae.decoder, (vae.config.latent_dimensions,), False)[0] for vae in vaes],
        "codeBox": code_box,
        "epsilon": config.epsilon if config.norm is Norm.LINF else PAPER_EPSILONS[Norm.LINF][0],
        "steps": config.attack.steps,
        "stepSize": config.attack.step_size,
    }
    folder = resources.files("hlf_np.report.explorer")
    scripts = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    names = ", ".join(f"{model['label'].lower()} ({model['size']} images)" for model in models)
    template = Template(folder.joinpath("explore.html").read_text(encoding="utf-8"))
    content = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no tag can end the script
    return template.substitute(models=names, scripts=scripts, data=content)


def _chosen_models(store: Store, results: Sequence[CellResult]) -> list[tuple[Training, Cell, Model]]:
    """Load the model of the largest N and the first seed of each training."""
    chosen = []
    for training, cells in by_training(results).items():
        candidates = [r.cell for r in cells if not r.failure and store.model_path(r.cell).exists()]
        if candidates:
            cell = max(candidates, key=lambda cell: (cell.n_train, -cell.seed))
            chosen.append((training, cell, load(store.model_path(cell))))
    return chosen


def _described_model(
    training: Training, cell: Cell, model: Model, shown: Split, results: Sequence[CellResult]
) -> dict[str, Any]:
    """Describe a model, whose weights are rounded if that changes no prediction on the images of the page."""
    rounded = copy.deepcopy(model)
    _round_weights(rounded.network)
    exact = not np.array_equal(model.predict(shown.images), rounded.predict(shown.images))
    return {
        "name": training.name,
        "label": training.label,
        "color": training_style(training, by_training(results))["color"],
        "size": cell.n_train,
        "layers": described(model.network, model.image_shape, exact)[0],
    }


def _round_weights(layer: nn.Layer) -> None:
    """Replace the weights of linear layers and convolutions by what the page stores."""
    for child in layer.children().values():
        _round_weights(child)
    if not isinstance(layer, nn.BatchNorm):
        for parameter in layer.parameters.values():
            integers, scale = integers_and_scale(parameter.data)
            parameter.data[...] = integers * scale


def _clearest_of_each_class(labels: Integers, recognised: Integers) -> Integers:
    """Return the indices of some images of each class: the first of those that most models recognise."""
    classes = np.unique(labels)
    count = max(1, min(IMAGES_PER_CLASS, MAX_IMAGES // len(classes)))
    order = np.argsort(-recognised, kind="stable")
    return np.concatenate([order[labels[order] == label][:count] for label in classes])


def _bytes(image: Floats) -> str:
    """Return an image (H, W, C) in [0, 1] as base64 of one byte for each value, channels first."""
    values = np.round(255 * np.clip(np.moveaxis(image, -1, 0), 0, 1)).astype(np.uint8)
    return base64.b64encode(values.tobytes()).decode()


def _numbers(values: Floats) -> list[float]:
    return [round(float(value), 5) for value in values]


def _box(lower: Sequence[float], upper: Sequence[float]) -> dict[str, list[float]]:
    return {"lower": [float(bound) for bound in lower], "upper": [float(bound) for bound in upper]}
