"""Manifolds of images: learning them with variational autoencoders, and measuring the distance to them."""

from hlf_np.manifolds.learning import VaeLog, all_classes_vae, class_vaes, count_vaes, stored_vaes, train_vae
from hlf_np.models.vae import Vae, VaeConfig, load_vae

__all__ = [
    "Vae",
    "VaeConfig",
    "VaeLog",
    "all_classes_vae",
    "class_vaes",
    "count_vaes",
    "load_vae",
    "stored_vaes",
    "train_vae",
]
