"""Compilation of classifiers into programs, which makes them fast; see `programs`.

Nothing here changes what a model computes, and `models.model` can be read without this file.
"""

from collections.abc import Sequence

from hlf_np.autodiff import Tensor
from hlf_np.layers import Layer
from hlf_np.losses import CROSS_ENTROPY, Loss
from hlf_np.optim import AdamConfig
from hlf_np.programs.compiler import Compiler, classifier_training
from hlf_np.programs.evaluation import NO_PREPROCESSOR, Program
from hlf_np.programs.training import ClassifierTraining
from hlf_np.support.checks import same_objects


class Compilable:
    """Mixin for the compiled programs of a classifier, from which `Model` inherits.

    Programs always use the current weights of the network, and are compiled again if its layers change.

    Attributes
    ----------
    network : Layer
        The network that is compiled.
    image_shape : tuple of int
        (H, W, C).
    """

    network: Layer
    image_shape: tuple[int, int, int]

    def __init__(self) -> None:
        self._compiler = Compiler()

    @property
    def has_default_forward(self) -> bool:
        """Whether the logits are the output of the network; a subclass may define another `forward`."""
        raise NotImplementedError

    def parameters(self) -> list[Tensor]:
        """Return the tensors that are trained."""
        raise NotImplementedError

    def check_shapes(self) -> None:
        """Raise UserError if the layers do not fit together."""
        raise NotImplementedError

    @property
    def compiles(self) -> bool:
        """Whether evaluation and attacks are compiled. If not, autodiff computes everything."""
        return self.program is not None

    @property
    def program(self) -> Program | None:
        """The compiled network for evaluation and attacks; None if it does not compile."""
        return self.program_behind(NO_PREPROCESSOR, self.image_shape)

    @property
    def warp_program(self) -> Program | None:
        """The compiled network, preceded by an affine warp of images of one channel; None if it does not compile."""
        return self.program_behind(NO_PREPROCESSOR, self.image_shape, warped=True)

    def program_behind(
        self, preprocessors: Sequence[Layer], input_shape: tuple[int, ...], warped: bool = False
    ) -> Program | None:
        """Compile the network preceded by other networks, such as the decoders of the classes.

        Parameters
        ----------
        preprocessors : sequence of Layer
            Networks whose output is the input of this one, one for each group of inputs.
        input_shape : tuple of int
            Shape of an input of the preprocessors.
        warped : bool
            Whether the program warps an image first, and takes the parameters of the warp as its input.

        Returns
        -------
        Program or None
            The program; None if the networks do not compile.
        """
        if not self.has_default_forward:
            return None
        return self._compiler.program(self.network, input_shape, preprocessors, warped, self.check_shapes)

    def training_program(self, config: AdamConfig, loss: Loss = CROSS_ENTROPY) -> ClassifierTraining | None:
        """Compile the network for training.

        Parameters
        ----------
        config : AdamConfig
            Settings of the optimiser.
        loss : Loss
            The loss.

        Returns
        -------
        ClassifierTraining or None
            The program; None if the network or the loss does not compile, or a subclass trains other parameters.
        """
        every = [parameter for _, parameter in self.network.named_parameters()]
        if not self.has_default_forward or not same_objects(self.parameters(), every):
            return None
        return classifier_training(self.network, self.image_shape, config, loss)
