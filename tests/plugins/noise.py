"""An attack: random perturbations, of which the last that fools the model is kept."""

from dataclasses import dataclass

import numpy as np

from hlf_np.attacks import AttackResult
from hlf_np.random import generator


@dataclass(frozen=True)
class Noise:
    name = "noise"
    tries: int = 20

    def find(self, model, split, space, seed=0):
        chart, random = space.chart(split.images, split.labels, split.codes), generator(seed, "noise")
        codes = chart.start.copy()
        for _ in range(self.tries):
            trials = space.project(chart, chart.start + space.random_perturbations(random, codes.shape))
            fooled = model.predict(np.clip(chart.decoded(trials), 0, 1)) != split.labels
            codes[fooled] = trials[fooled]
        images = np.clip(chart.decoded(codes), 0, 1)
        success = model.predict(images) != split.labels
        return AttackResult(
            images=images,
            perturbations=codes - chart.start,
            success=success,
            iterations=np.full(len(split), self.tries),
            loss=np.zeros(len(split)),
            restart_success=success[None],
        )


noise = Noise()
