"""Where a perturbation lives: one file for each space, and `space` for what they have in common."""

from hlf_np.spaces.image_ball import ImageBall
from hlf_np.spaces.learned_manifold import LearnedManifold
from hlf_np.spaces.space import Chart, Norm, Space
from hlf_np.spaces.transformations import EMNIST_BOX, Transformations
from hlf_np.spaces.true_manifold import TrueManifold
from hlf_np.spaces.warp_chart import WarpChart

__all__ = [
    "EMNIST_BOX",
    "Chart",
    "ImageBall",
    "LearnedManifold",
    "Norm",
    "Space",
    "Transformations",
    "TrueManifold",
    "WarpChart",
]
