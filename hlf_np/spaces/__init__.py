"""Where a perturbation lives: one file for each space, and `space` for what they have in common."""

from hlf_np.spaces.image_ball import ImageBall
from hlf_np.spaces.learned_manifold import LearnedManifold
from hlf_np.spaces.space import Chart, Norm, Space

__all__ = ["Chart", "ImageBall", "LearnedManifold", "Norm", "Space"]
