"""Networks that are trained, attacked and saved: classifiers, and variational autoencoders (`models.vae`)."""

from hlf_np.models.model import Model, cnn, load, mlp, resnet, vgg

__all__ = ["Model", "cnn", "load", "mlp", "resnet", "vgg"]
