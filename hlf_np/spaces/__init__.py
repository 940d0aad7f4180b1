"""Where a perturbation lives: one file for each space, and `space` for what they have in common."""

from hlf_np.data.fonts import EMNIST_BOX
from hlf_np.spaces.image_ball import ImageBall
from hlf_np.spaces.learned_manifold import LearnedManifold
from hlf_np.spaces.space import PAPER_EPSILONS, Chart, Given, Need, Norm, Space
from hlf_np.spaces.transformations import Transformations
from hlf_np.spaces.true_manifold import TrueManifold
from hlf_np.spaces.warp_chart import WarpChart

# Those that runs know, in the order of the results' columns.
SPACES: tuple[type[Space], ...] = (ImageBall, TrueManifold, LearnedManifold, Transformations)

__all__ = [
    "EMNIST_BOX",
    "PAPER_EPSILONS",
    "SPACES",
    "Chart",
    "Given",
    "ImageBall",
    "LearnedManifold",
    "Need",
    "Norm",
    "Space",
    "Transformations",
    "TrueManifold",
    "WarpChart",
]
