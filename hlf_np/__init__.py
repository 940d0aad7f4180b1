"""Disentangling adversarial robustness and generalization, from scratch in NumPy and Numba.

hlf stands for the Heidelberg Laureate Forum, at which the authors of the paper summed it up on a poster in 2019.

>>> import hlf_np as hlf
>>> data = hlf.data.load_fonts(n_train=100, n_test=100)
>>> model = hlf.models.cnn(classes=10, seed=0)
>>> log = hlf.training.train(model, data.train, training="adversarial", epochs=1)
>>> space = hlf.spaces.ImageBall(epsilon=0.3)
>>> result = hlf.attacks.pgd(model, data.test.images, data.test.labels, space, steps=3)
>>> bool((result.success == (model.predict(result.images) != data.test.labels)).all())
True

.. include:: READING.md
.. include:: RUNNING.md
.. include:: EXTENDING.md
"""

import importlib
from types import ModuleType

from hlf_np.support.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "UserError",
    "attacks",
    "autodiff",
    "data",
    "layers",
    "losses",
    "manifolds",
    "models",
    "operations",
    "spaces",
    "training",
    "trainings",
]


def __getattr__(name: str) -> ModuleType:
    """Import submodules on first use, so that the command line starts quickly."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
