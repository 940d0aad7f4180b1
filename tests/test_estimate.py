"""How long a run takes: arithmetic with made-up clocks and speeds."""

from dataclasses import replace

import pytest
from helpers import TINY, made_up

from hlf_np import models
from hlf_np.architectures import DEFAULTS, Kind
from hlf_np.attacks import CarliniWagner
from hlf_np.experiments.config import PRESETS, Cell, Preset
from hlf_np.experiments.estimate import announcement, duration, measured_speed
from hlf_np.experiments.folder import open_store
from hlf_np.experiments.work import (
    cell_work,
    epoch_work,
    evaluation_work,
    pass_work,
    step_work,
    total_work,
    vae_epoch_work,
    vae_size,
)
from hlf_np.manifolds.vae import VaeConfig
from hlf_np.spaces import ImageBall
from hlf_np.training import Training, Variant


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "a few seconds"), (14, "a few seconds"), (16, "about 20 seconds"), (118, "about 120 seconds")),
        *((120, "about 2 minutes"), (150, "about 2.5 minutes"), (7100, "about 118 minutes")),
        *((7200, "about 2 hours"), (5.4 * 3600, "about 5 hours"), (172_700, "about 48 hours")),
        *((172_800, "about 2 days"), (40 * 86_400, "about 40 days")),
    ],
)
def test_times_are_said_in_the_unit_that_fits(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize("preset", [Preset.QUICK, Preset.STANDARD, Preset.PAPER])
@pytest.mark.parametrize("minutes", [50, 600])
def test_the_announcement_divides_the_work_by_the_speed(tmp_path, preset, minutes):
    config = PRESETS[preset]
    with open_store(tmp_path, config) as store:
        speed = total_work(config, store) / (60 * minutes)
        said = announcement(config, store, speed, 2)
    models = len(config.trainings) * len(config.sizes) * config.seeds
    time = {50: "about 50 minutes", 600: "about 10 hours"}[minutes]
    assert said == f"{models} models to train and attack: {time} on 2 threads."


def test_what_is_finished_is_not_announced(tmp_path):
    with open_store(tmp_path, TINY) as store:
        cells = list(TINY.cells())
        store.save(made_up(cells[0].training, cells[0].n_train, cells[0].seed), models.Model(TINY.architecture))
        before = announcement(TINY, store, 1.0, 1)
    assert before.startswith("3 of 4 models to train and attack: about ")
    assert before.endswith(" on 1 thread.")


@pytest.mark.parametrize("kind", Kind)
def test_the_speed_is_that_of_the_steps_that_were_taken(monkeypatch, kind):
    config = replace(TINY, architecture=DEFAULTS[kind].with_widths((2, 3)))
    steps = []

    def attack(model, split, space, attack):
        assert model.architecture == config.architecture
        assert not attack.stop_early
        steps.append((len(split), attack.steps))

    now = iter(range(1000))  # every look at the clock is a second later
    monkeypatch.setattr("hlf_np.attacks.run", attack)
    speed = measured_speed(config, clock=lambda: next(now))
    assert len(steps) == 2  # the first compiles
    count, taken = steps[-1]
    assert speed == pytest.approx(count * taken * step_work(config, ImageBall))


def test_a_fast_machine_takes_more_steps_until_the_clock_tells_a_difference(monkeypatch):
    time, rate = 0.0, 1e6  # image-steps in a second
    taken = []

    def attack(model, split, space, attack):
        nonlocal time
        time += len(split) * attack.steps / rate
        taken.append(len(split) * attack.steps)

    monkeypatch.setattr("hlf_np.attacks.run", attack)
    speed = measured_speed(TINY, clock=lambda: time)
    assert speed == pytest.approx(rate * step_work(TINY, ImageBall))
    assert 0.3 <= taken[-1] / rate < 1
    assert sum(taken) / rate < 1


def test_work_grows_with_all_that_costs_time():
    config = replace(TINY, architecture=DEFAULTS[Kind.CNN])
    cell = Cell(Training.ADVERSARIAL, 1000, 0)
    assert cell_work(config, cell) == config.epochs * epoch_work(config, cell) + evaluation_work(config, cell)
    assert pass_work(DEFAULTS[Kind.CNN]) == 1

    for more in (
        {"variant": Variant.FULL},
        {"epochs": 2},
        {"architecture": DEFAULTS[Kind.RESNET]},
        {"attack": replace(config.attack, restarts=3)},
        {"carlini_wagner": CarliniWagner()},
        {"n_transfer": 1000},
        {"n_attacked": 50},
    ):
        assert cell_work(replace(config, **more), cell) > cell_work(config, cell), more
    assert epoch_work(replace(config, variant=Variant.WEAK), cell) < epoch_work(config, cell)
    wide = replace(config, vae=replace(config.vae, channels=(64, 128, 256)))
    learned = replace(cell, training=Training.ON_LEARNED_MANIFOLD_ADVERSARIAL)
    assert epoch_work(wide, learned) > 2 * epoch_work(config, learned)
    assert epoch_work(wide, cell) == epoch_work(config, cell)
    assert evaluation_work(wide, cell) > evaluation_work(config, cell)
    assert vae_epoch_work(wide) > 5 * vae_epoch_work(config)
    assert vae_size(VaeConfig()) == 1
    normal, random = Cell(Training.NORMAL, 1000, 0), Cell(Training.RANDOM_TRANSFORMATIONS, 1000, 0)
    assert epoch_work(config, normal) == epoch_work(config, random) < epoch_work(config, cell)
    assert evaluation_work(config, normal) < evaluation_work(config, cell)
    assert pass_work(DEFAULTS[Kind.MLP]) < 1 < pass_work(DEFAULTS[Kind.VGG])
