"""A space: images may become darker, by a factor between 1/2 and 1."""

from dataclasses import dataclass

import numpy as np

from hlf_np.spaces import Chart, Space


@dataclass(frozen=True)
class BrightnessChart(Chart):
    of_images = ("start", "images")  # the fields with one entry per image

    images: np.ndarray  # (N, H, W, C)

    def decode(self, codes):  # factors, (N, 1, 1, 1)
        return self.images * codes


class Brightness(Space):
    name, attacks, step_size = "brightness", "attacks by brightness", 0.05

    def chart(self, images, labels, codes):
        ones = np.ones((len(images), 1, 1, 1), np.float32)
        return BrightnessChart(start=ones, lower=ones[:1] / 2, upper=ones[:1], images=images)
