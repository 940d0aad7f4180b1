"""Networks that are trained, attacked and saved: classifiers, and variational autoencoders (`models.vae`)."""

from hlf_np.models.constructors import cnn, mlp, resnet, vgg
from hlf_np.models.model import Model, load

__all__ = ["Model", "cnn", "load", "mlp", "resnet", "vgg"]
