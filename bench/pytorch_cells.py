"""What the models of a run would take PyTorch.

    python bench/pytorch_cells.py RESULTS [--threads 2] [--jobs 1]

RESULTS is a folder with the `config.json` and `results.csv` of a run. One training step of each kind and one attack in
each space are timed in PyTorch, in the faster of its memory formats, and multiplied by the numbers of steps, images and
restarts of each model. Attacks take all of their steps. Nothing else that a run measures is counted for PyTorch (models
after each epoch, unseen and thorough attacks, distances), while the hours of the run include everything; they are the
seconds of the models divided by the number of `--jobs` with which it ran.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
from tasks import STEPS
from tasks_torch import decoder_problem, latent_pgd, torch_model, torch_pgd, torch_task, warp_problem

from hlf_np.cli.benchmarks import median_seconds
from hlf_np.experiments.storage.folder import stored_config

BATCH, PERTURBED = 100, 50
ATTACKED = 500  # images of a timed attack


def measured(threads: int, channels_last: bool) -> dict[str, float]:
    """Return the seconds of a training step of each kind, of a restart per image in each space, and of a test image."""
    import torch

    memory = torch.channels_last if channels_last else torch.contiguous_format
    step = torch_task("train-cnn-100", threads, channels_last)
    assert step
    model = torch_model("cnn").to(memory_format=memory).eval()
    images = torch.rand(1000, 1, 28, 28).to(memory_format=memory)
    labels = torch.randint(0, 10, (1000,))

    def regular(count: int) -> Any:
        return torch_pgd(model, images[:count], labels[:count], STEPS)

    problems = {make: (make(PERTURBED, memory), make(ATTACKED, memory)) for make in (warp_problem, decoder_problem)}
    (few_warped, warped), (few_decoded, decoded) = problems.values()

    def random_warps() -> None:
        with torch.no_grad():
            few_warped[0](few_warped[1])

    def predict() -> None:
        with torch.no_grad():
            model(images)

    normal = median_seconds(step)
    warp = median_seconds(lambda: latent_pgd(*few_warped))
    return {
        "normal": normal,
        "adversarial": normal + median_seconds(lambda: regular(PERTURBED)),
        "on_true_manifold_adversarial": normal + warp,
        "on_learned_manifold_adversarial": normal + median_seconds(lambda: latent_pgd(*few_decoded)),
        "adversarial_transformations": normal + warp,
        "random_transformations": normal + median_seconds(random_warps),
        "regular_success": median_seconds(lambda: regular(ATTACKED)) / ATTACKED,
        "on_true_manifold_success": median_seconds(lambda: latent_pgd(*warped)) / ATTACKED,
        "on_learned_manifold_success": median_seconds(lambda: latent_pgd(*decoded)) / ATTACKED,
        "test": median_seconds(predict) / len(images),
    }


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--threads", default=2, show_default=True)
@click.option("--jobs", default=1, show_default=True)
def main(folder: Path, threads: int, jobs: int) -> None:
    """Print the hours of the run and of PyTorch by training."""
    config = stored_config(folder)
    formats = [measured(threads, channels_last) for channels_last in (False, True)]
    fastest = {name: min(of_format[name] for of_format in formats) for name in formats[0]}
    for name, seconds in fastest.items():
        print(f"{name:34} {1000 * seconds:8.3f} ms")
    images = {
        "regular_success": config.n_attacked,
        "on_true_manifold_success": config.n_attacked_on_manifold,
        "on_learned_manifold_success": config.n_attacked_on_manifold,
    }
    hours: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    with (folder / "results.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["training"] not in fastest:
                continue
            steps = config.epochs * int(row["n_train"]) / BATCH
            correct = 1 - float(row["test_error"])
            attacks = sum(fastest[column] * count for column, count in images.items() if row[column])
            evaluation = config.n_test * fastest["test"] + config.attack.restarts * correct * attacks
            parts = float(row["seconds"]) / jobs, steps * fastest[row["training"]], evaluation
            for index, seconds in enumerate(parts):
                hours[row["training"]][index] += seconds / 3600
    print(f"\n{'hours':34} {'run':>8} {'PyTorch: training':>18} {'attacks':>8}")
    for training, (run, of_training, evaluation) in hours.items():
        print(f"{training:34} {run:8.2f} {of_training:18.2f} {evaluation:8.2f}")
    totals = [sum(column) for column in zip(*hours.values(), strict=True)]
    print(f"{'all':34} {totals[0]:8.2f} {totals[1]:18.2f} {totals[2]:8.2f}")


if __name__ == "__main__":
    main()
