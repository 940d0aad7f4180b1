"""A space of one's own: images may become brighter or darker, by a factor between 1/2 and 1."""

from dataclasses import dataclass

import numpy as np

from hlf_np.spaces import Chart, Space


@dataclass(frozen=True)
class BrightnessChart(Chart):
    images: np.ndarray  # (N, H, W, C)

    def decode(self, codes):  # (N, 1, 1, 1), factors
        return self.images * codes

    def take(self, rows):
        return BrightnessChart(self.start[rows], self.lower, self.upper, self.images[rows])


class Brightness(Space):
    name, attacks = "brightness", "attacks by brightness"

    def chart(self, images, labels, codes):
        ones = np.ones((len(images), 1, 1, 1), np.float32)
        return BrightnessChart(ones, ones[:1] / 2, ones[:1], images)
