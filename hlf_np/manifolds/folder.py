"""The VAEs in a folder, for whoever has no data to train them again."""

from pathlib import Path

from hlf_np.errors import UserError
from hlf_np.manifolds.vae import Vae, load_vae


def count_vaes(folder: Path) -> int:
    """How many VAEs `class_vaes` has left in a folder."""
    return len(list(folder.glob("vae-*.npz")))


def stored_vaes(folder: Path, classes: int) -> tuple[Vae, ...]:
    """The VAEs that `class_vaes` left in a folder, in the order of the classes.

    Raises
    ------
    UserError : unless there is exactly one for each class, or if a file is damaged.
    """
    found = []
    for label in range(classes):
        paths = list(folder.glob(f"vae-{label}-*.npz"))
        if len(paths) != 1:
            raise UserError(
                f"{str(folder)!r} holds {len(paths)} VAEs of class {label} instead of one:"
                " give the folder `manifolds` of a finished run"
            )
        found.append(load_vae(paths[0]))
    return tuple(found)
