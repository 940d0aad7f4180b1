"""Perturbation spaces: where adversarial examples may lie.

`space`, `chart` and `norm` define the interface, each space has a file, and `warp_chart` is shared by the two spaces of
affine maps.

What happens to one image x with label y in an attack on the learned manifold, and where to read it:

1. **Encode.** `VaeManifold.chart` runs x through the encoder of class y. The mean z of q(z | x) is the
   image's code. The result is a `Chart` with `start` = z and the box of all codes as `lower` and `upper`.
2. **Start.** `PGD.find` adds a random perturbation: code = project(z + zeta).
3. **Decode.** `Chart.decode` runs the code through the decoder of class y: an image again.
4. **Classify.** The model maps that image to logits and a loss. The best code so far is kept, the one of highest loss;
   in an evaluation, the first one that is assigned a class other than y, and there the attack stops. The gradient of
   the loss flows back through the model *and the decoder* to the code.
5. **Step and project.** code = project(code + step): `Space.project` moves the code back to within epsilon of z and
   into the box. Repeat from 3, `steps` times. At the end the best code is decoded and classified once more.

Read `Space.project` in `space.py`, `VaeManifold.chart` and `LearnedChart.decode` in `learned_manifold.py`, then
`PGD.find` and `_ascent` in `attacks/pgd.py`. Compiled, the same happens in `kernels/interpreter/attack.py`, through a
program that `programs/evaluation.py` makes of decoders and classifier. In the other spaces, only steps 1 and 3 differ:
for `ImageBall` the code is the image itself, for `TrueManifold` and `Transformations` it is the six parameters of an
affine map.
"""

from hlf_np.data.fonts import EMNIST_BOX
from hlf_np.spaces.chart import Chart
from hlf_np.spaces.image_ball import ImageBall
from hlf_np.spaces.learned_manifold import DataManifold, LearnedManifold
from hlf_np.spaces.norm import PAPER_EPSILONS, Norm
from hlf_np.spaces.space import Need, RunContext, Space
from hlf_np.spaces.transformations import Transformations
from hlf_np.spaces.true_manifold import TrueManifold
from hlf_np.spaces.warp_chart import WarpChart

# The spaces available to experiment runs, in the order of the result columns.
SPACES: tuple[type[Space], ...] = (ImageBall, TrueManifold, LearnedManifold, Transformations, DataManifold)

__all__ = [
    "EMNIST_BOX",
    "PAPER_EPSILONS",
    "SPACES",
    "Chart",
    "DataManifold",
    "ImageBall",
    "LearnedManifold",
    "Need",
    "Norm",
    "RunContext",
    "Space",
    "Transformations",
    "TrueManifold",
    "WarpChart",
]
