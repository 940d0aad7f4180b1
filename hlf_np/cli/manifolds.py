"""The manifolds of a run, as `--manifolds` gives them to commands for a single model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hlf_np.cli.options import format_shape, reject_unused
from hlf_np.support.errors import UserError

if TYPE_CHECKING:
    from hlf_np.data.source import Source
    from hlf_np.manifolds import Vae
    from hlf_np.spaces import Need, Space


def required_vaes(
    user: str, needs: Collection[Need | None], source: Source, folder: Path | None
) -> tuple[tuple[Vae, ...], Vae | None]:
    """Load the VAEs of `manifolds_option` if they are needed.

    Parameters
    ----------
    user : str
        The training or space that has the needs, as named in messages.
    needs : collection of Need or None
        Its needs.
    source : Source
        The dataset.
    folder : Path or None
        Value of `manifolds_option`.

    Returns
    -------
    tuple of Vae
        One VAE per class; empty if no VAEs are needed.
    Vae or None
        The VAE of all classes, if there is one.

    Raises
    ------
    UserError
        If a needed manifold is missing.
    click.UsageError
        If VAEs are given but not needed.
    """
    from hlf_np.spaces import Need

    if Need.TRUE_MANIFOLD in needs and source.manifold is None:
        raise UserError(f"{user} needs the true manifold, which is unknown for {source.name}: choose another")
    if not set(needs) & {Need.LEARNED_MANIFOLD, Need.DATA_MANIFOLD}:
        reject_unused(["manifolds"], f"with {user}")
        return (), None
    if folder is None:
        raise UserError(f"{user} needs the VAEs of a run: give their folder with --manifolds")
    vaes, data_vae = load_vaes(folder, source)
    if Need.LEARNED_MANIFOLD in needs and not vaes:
        raise UserError(f"{user} needs a VAE of each class: give the folder of a run without --vae-images 0")
    if Need.DATA_MANIFOLD in needs and data_vae is None:
        raise UserError(f"{user} needs a VAE of all classes: give the folder of a run with --data-vae-images")
    return vaes, data_vae


def load_vaes(folder: Path, source: Source) -> tuple[tuple[Vae, ...], Vae | None]:
    """Load the VAEs of a run: one for each class, and the one of all classes, where there are any.

    Parameters
    ----------
    folder : Path
        Value of `manifolds_option`.
    source : Source
        The dataset.

    Returns
    -------
    tuple of Vae
        One VAE per class; empty if the run had only that of all classes.
    Vae or None
        The VAE of all classes.

    Raises
    ------
    UserError
        If a VAE is missing or damaged, or was trained on images of another shape or, as far as is known, other images.
    """
    from hlf_np.experiments.storage.folder import described_run
    from hlf_np.manifolds.learning import count_vaes, stored_all_classes_vae, stored_vaes

    run = described_run(folder.absolute().parent)
    own = {"dataset": source.name, "classes": list(source.class_names)} | source.description
    is_same = bool(own.get("digest")) and run.get("digest") == own["digest"]  # wherever the files are now
    for setting in ("dataset", "classes", "difficulty"):
        theirs, ours = run.get(setting), own.get(setting)
        if theirs and ours and theirs != ours and not is_same:
            raise UserError(
                f"the VAEs in {str(folder)!r} were trained on other images ({setting} {theirs!s:.60} instead of"
                f" {ours!s:.60}): give those of a run on the same dataset"
            )
    data_vae = stored_all_classes_vae(folder)
    vaes = stored_vaes(folder, len(source.class_names)) if count_vaes(folder) or not data_vae else ()
    for vae in (*vaes, *filter(None, [data_vae])):
        if vae.config.image_shape != source.image_shape:
            raise UserError(
                f"the VAEs in {str(folder)!r} are for {format_shape(vae.config.image_shape)} images, but {source.name}"
                f" has {format_shape(source.image_shape)} images: give the VAEs of a run on the same dataset"
            )
    return vaes, data_vae


def images_of_run(name: str, manifolds: Path | None, available: int) -> int:
    """Return a number of images of the run that a folder of manifolds belongs to; if unknown, that of any run.

    Boxes of codes depend on these numbers, and must not depend on how many images a command uses.
    """
    from hlf_np.experiments.configuration.config import RunConfig
    from hlf_np.experiments.storage.folder import described_run

    count = described_run(manifolds.absolute().parent).get(name) if manifolds else None
    return min(count if isinstance(count, int) and count > 0 else getattr(RunConfig, name), available)


def fitted(spaces: Sequence[Space], source: Source, manifolds: Path | None) -> list[Space]:
    """Fit spaces to as many test images as a run does, however many are attacked here."""
    from hlf_np.spaces import Space

    if all(type(space).fitted is Space.fitted for space in spaces):
        return list(spaces)
    test = source.dataset(0, images_of_run("n_test", manifolds, source.test_size)).test
    return [space.fitted(test.images, test.labels) for space in spaces]
