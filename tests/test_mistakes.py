"""Mistakes at the command line: each is one clear line and exit code 2, and nothing is lost."""

import json
import os
import shutil

import numpy as np
import pytest
from helpers import command, main, tree

from hlf_np import models


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, smoke):
    """A folder with a finished run, a model, and things that are neither."""
    place = tmp_path_factory.mktemp("workplace")
    shutil.copytree(smoke, place / "done")
    shutil.copytree(smoke, place / "damaged")
    damaged = place / "damaged" / "cells" / "normal-100-0.npz"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    (vae,) = (place / "damaged" / "manifolds").glob("vae-4-*.npz")
    vae.write_bytes(vae.read_bytes()[:-50])
    (place / "unstarted").mkdir()
    shutil.copy(smoke / "config.json", place / "unstarted")
    content = json.loads((smoke / "config.json").read_text())
    content["run"]["architecture"] = ["cnn"]
    (place / "odd").mkdir()
    (place / "odd" / "config.json").write_text(json.dumps(content))
    (place / "foreign").mkdir()
    (place / "foreign" / "config.json").write_text('{"editor": "dark"}')
    (place / "full").mkdir()
    (place / "full" / "thesis.txt").write_text("mine")
    (place / "empty").mkdir()
    os.mkfifo(place / "pipe")

    models.cnn(widths=(2, 4), hidden_units=4).save(place / "model.npz")
    models.cnn(classes=5, widths=(2, 4), hidden_units=4).save(place / "five.npz")
    reordered = models.cnn(widths=(2, 4), hidden_units=4)
    reordered.class_names = tuple("ACBDEFGHIJ")
    reordered.save(place / "reordered.npz")
    (place / "truncated.npz").write_bytes((place / "model.npz").read_bytes()[:1000])
    (place / "text.npz").write_text("no archive")
    np.savez(place / "other.npz", images=np.zeros(3))
    return place


SMALL = "--n-test 20 --n-attacked 10"
MISTAKES = [  # arguments, and what the line must say
    ("bogus", "No such command 'bogus'"),
    ("--bogus", "No such option '--bogus'"),
    ("run --bogus", "No such option '--bogus'"),
    ("run extra", "unexpected extra argument"),
    ("run --out", "requires an argument"),
    ("run --preset bogus", "unknown preset 'bogus': use one of smoke, quick, standard, paper"),
    ("run --trainings bogus --out new", "unknown training 'bogus': use one of normal, adversarial"),
    (
        "run --trainings on_learned_manifold_adversarial --vae-images 0 --out new",
        "needs the learned manifold, but the run trains no VAEs",
    ),
    ("run --vae-images 96001 --out new", "--vae-images must be between 0 and 96000, not 96001"),
    ("run --vae-channels 64,wide --out new", "'64,wide' is not a list of integers"),
    ("run --vae-channels 0 --out new", "--vae-channels must be between 1 and 65536, not 0"),
    ("run --vae-channels 1,1,1,1,1 --out new", "at least 32 pixels a side, not 28x28: use --vae-images 0"),
    ("run --vae-images 0 --vae-channels 4 --out new", "--vae-channels has no effect with --vae-images 0: see"),
    ("run --trainings normal --variant full --out new", "--variant has no effect with these trainings, which it does"),
    ("run --trainings normal,trades_1 --variant full --out new", "--variant has no effect with these trainings"),
    ("run --trainings random_perturbations --variant weak --out new", "--variant has no effect with these trainings"),
    ("run --trainings normal,normal --out new", "each only once"),
    ("run --trainings , --out new", "unknown training ''"),
    ("run --dataset mnist --out new", "unknown dataset 'mnist'"),
    ("run --difficulty bogus --out new", "unknown difficulty 'bogus': use one of easy, moderate, hard"),
    ("run --sizes many --out new", "'many' is not a list of integers"),
    ("run --sizes 1e3 --out new", "'1e3' is not a list of integers"),
    ("run --sizes 10,,20 --out new", "'10,,20' is not a list of integers"),
    ("run --sizes 0 --out new", "sizes must be at least 1, not 0"),
    ("run --sizes 100,-5 --out new", "sizes must be at least 1, not -5"),
    ("run --sizes 10,10 --out new", "each only once"),
    ("run --sizes 100,960001 --out new", "sizes must be between 1 and 960000, not 960001"),
    ("run --seeds 0 --out new", "seeds must be between 1 and 10000, not 0"),
    ("run --seeds few --out new", "'few' is not a valid integer"),
    ("run --architecture bogus --out new", "unknown architecture 'bogus': use one of cnn, mlp, resnet, vgg"),
    ("run --channels 16,wide --out new", "'16,wide' is not a list of integers"),
    ("run --channels 0 --out new", "--channels must be between 1 and 65536, not 0"),
    ("run --channels 4,9999999999999999999999 --out new", "--channels must be between 1 and 65536, not 99999"),
    ("run --channels 4,4,4,4,4 --out new", "images of 28x28 pixels are too small for this cnn"),
    ("run --variant bogus --out new", "unknown variant 'bogus': use one of half, full, weak"),
    ("run --norm l7 --out new", "unknown norm 'l7': use one of linf, l2"),
    ("run --jobs 0 --out new", "jobs must be between 1 and 1024, not 0"),
    ("run --jobs two --out new", "'two' is not a valid integer"),
    ("run --threads 0 --out new", "threads must be between 1 and 1024, not 0"),
    ("run --threads -1 --out new", "threads must be between 1 and 1024, not -1"),
    ("run --threads abc --out new", "'abc' is not a valid integer"),
    ("run --threads 5000 --out new", "threads must be between 1 and 1024, not 5000"),
    ("run --preset smoke --out model.npz", "cannot use 'model.npz' (Not a directory)"),
    ("run --preset smoke --out model.npz/below", "cannot use 'model.npz/below' (Not a directory)"),
    ("run --preset smoke --out /dev/null/below", "cannot use '/dev/null/below' (Not a directory)"),
    ("run --preset smoke --out /proc/below", "/proc/below"),
    ("run --preset smoke --norm l2 --out done", "another configuration (different epsilon, norm)"),
    ("run --preset smoke --out {long}", "File name too long"),
    ("run --preset smoke --out full", "'full' contains other files"),
    ("run --preset smoke --out foreign", "'foreign/config.json' was not written by this program"),
    ("run --preset smoke --out damaged", "'damaged/cells/normal-100-0.npz' is damaged: delete it"),
    ("run --preset smoke --trainings normal --out done", "another configuration (different trainings)"),
    ("run --preset smoke --sizes 100 --difficulty easy --out done", "configuration (different difficulty, sizes)"),
    ("report missing", "'missing/config.json' is missing"),
    ("report full", "'full/config.json' is missing"),
    ("report foreign", "'foreign/config.json' was not written by this program"),
    ("report odd", "'odd/config.json' was not written by this program"),
    ("report unstarted", "'unstarted' contains no finished model"),
    ("report damaged", "'damaged/cells/normal-100-0.npz' is damaged: delete it"),
    ("report model.npz", "'model.npz/config.json' is missing"),
    ("evaluate", "Missing argument 'MODEL'"),
    ("evaluate missing.npz", "no model file 'missing.npz'"),
    ("evaluate truncated.npz", "'truncated.npz' is not a model file"),
    ("evaluate text.npz", "'text.npz' is not a model file"),
    ("evaluate other.npz", "'other.npz' is not a model file"),
    ("evaluate empty", "'empty' is not a model file"),
    ("evaluate done/cells/normal-100-0.npz", "is not a model file"),
    (
        f"evaluate five.npz {SMALL}",
        "'five.npz' is a model for 5 classes of 28x28x1 images, but fonts has 10 classes of 28x28x1 images",
    ),
    (f"evaluate model.npz {SMALL} --transfer-from five.npz", "'five.npz' is a model for 5 classes"),
    (
        f"evaluate model.npz {SMALL} --transfer-from five.npz --n-checked 0",
        "--transfer-from has no effect with --n-checked 0",
    ),
    (f"evaluate model.npz {SMALL} --epsilon -1", "epsilon must be a positive number, not -1"),
    (f"evaluate model.npz {SMALL} --epsilon nan", "epsilon must be a positive number, not nan"),
    (f"evaluate model.npz {SMALL} --restarts 0", "restarts must be at least 1, not 0"),
    (f"evaluate model.npz {SMALL} --difficulty bogus", "unknown difficulty 'bogus'"),
    (f"evaluate model.npz {SMALL} --n-checked -1", "n_checked must be at least 0, not -1"),
    (f"evaluate model.npz {SMALL} --transfer-from missing.npz", "no model file 'missing.npz'"),
    ("evaluate model.npz --n-test 0", "n_test must be at least 1, not 0"),
    ("evaluate model.npz --n-test 160001", "n_test must be between 0 and 160000, not 160001"),
    ("evaluate model.npz --n-attacked 0", "n_attacked must be between 1"),
    ("evaluate model.npz --n-attacked-on-manifold 0", "n_attacked_on_manifold must be between 1"),
    ("attack missing.npz", "no model file 'missing.npz'"),
    ("attack truncated.npz", "'truncated.npz' is not a model file"),
    ("attack other.npz", "'other.npz' is not a model file"),
    ("attack five.npz", "'five.npz' is a model for 5 classes"),
    ("attack reordered.npz", "'reordered.npz' is a model whose class 1 is 'C', but that of fonts is 'B'"),
    (f"evaluate model.npz {SMALL} --transfer-from reordered.npz", "'reordered.npz' is a model whose class 1 is 'C'"),
    ("attack model.npz --out ./model.npz", "--out would replace the model by its adversarial examples: give another"),
    ("attack model.npz --epsilon -1", "epsilon must be a positive number, not -1"),
    ("attack model.npz --epsilon nan", "epsilon must be a positive number, not nan"),
    ("attack model.npz --epsilon wide", "'wide' is not a valid float"),
    ("attack model.npz --norm l7", "unknown norm 'l7': use one of linf, l2"),
    ("attack model.npz --rule bogus", "unknown rule 'bogus': use one of adam, sign"),
    ("attack model.npz --attack bogus", "unknown attack 'bogus': use one of pgd, fgsm, cw, random"),
    (
        "attack model.npz --space bogus",
        "use one of image, true-manifold, learned-manifold, transformations, data-manifold",
    ),
    ("attack model.npz --space learned-manifold", "needs the VAEs of a run: give their folder with --manifolds"),
    ("attack model.npz --space learned-manifold --manifolds done", "'done' holds 0 VAEs of class 0"),
    (f"evaluate model.npz {SMALL} --manifolds damaged/manifolds", "' is not a VAE file, or is damaged: delete it"),
    ("evaluate model.npz --n-test 60 --n-attacked 61", "n_attacked must be between 1 and 60, not 61"),
    (f"evaluate model.npz {SMALL} --manifolds missing", "'missing' holds 0 VAEs of class 0"),
    ("attack model.npz --objective bogus", "unknown objective 'bogus': use one of cross-entropy, margin"),
    ("attack model.npz --space true-manifold --epsilon 0", "epsilon must be a positive number, not 0"),
    ("attack model.npz --steps -1", "steps must be at least 0, not -1"),
    ("attack model.npz --step-size 0", "step_size must be a positive number, not 0"),
    ("attack model.npz --step-size nan", "step_size must be a positive number, not nan"),
    ("attack model.npz --restarts 0", "restarts must be at least 1, not 0"),
    ("attack model.npz --steps 99999999999999999999", "Invalid value for '--steps'"),
    ("attack model.npz --restarts 99999999999999999999", "Invalid value for '--restarts'"),
    ("attack model.npz --step-size 1e308", "Invalid value for '--step-size'"),
    ("attack model.npz --epsilon inf", "Invalid value for '--epsilon'"),
    (f"evaluate model.npz {SMALL} --restarts 1000001", "Invalid value for '--restarts'"),
    (f"evaluate model.npz {SMALL} --epsilon 1e308", "Invalid value for '--epsilon'"),
    ("train --epochs 99999999999999999999", "Invalid value for '--epochs'"),
    ("attack model.npz --images 0", "images must be between 1 and 160000, not 0"),
    ("attack model.npz --images 160001", "images must be between 1 and 160000, not 160001"),
    (
        "attack model.npz --attack fgsm --steps 5",
        "--steps has no effect with attack fgsm: see `python -m hlf_np attack --help`",
    ),
    ("attack model.npz --attack fgsm --seed 0", "--seed has no effect with attack fgsm"),
    ("attack model.npz --attack cw --objective dlr", "--objective has no effect with attack cw"),
    ("attack model.npz --attack random --restarts 2", "--restarts has no effect with attack random"),
    ("attack model.npz --attack random --step-size 0.1", "--step-size has no effect with attack random"),
    ("attack model.npz --attack random --rule sign", "--rule has no effect with attack random"),
    ("attack model.npz --manifolds done/manifolds", "--manifolds has no effect with space image"),
    ("attack model.npz --seed -1", "Invalid value for '--seed'"),
    ("attack model.npz --out empty", "cannot write 'empty' (Is a directory)"),
    ("attack model.npz --out pipe", "cannot write 'pipe' (not a regular file)"),
    ("train --training bogus", "unknown training 'bogus': use one of normal, adversarial"),
    ("train --training adversarial --variant bogus", "unknown variant 'bogus': use one of half, full, weak"),
    ("train --training on_learned_manifold_adversarial --n-train 20", "give their folder with --manifolds"),
    ("train --variant full", "--variant has no effect with training normal"),
    ("train --training trades_1 --variant full", "--variant has no effect with training trades_1, which it does not"),
    ("train --manifolds empty --n-train 20", "--manifolds has no effect with training normal"),
    (
        "train --training on_learned_manifold_adversarial --manifolds empty",
        "'empty' holds 0 VAEs of class 0 instead of one",
    ),
    ("train --architecture bogus", "unknown architecture 'bogus': use one of cnn, mlp, resnet, vgg"),
    ("train --difficulty bogus", "unknown difficulty 'bogus'"),
    ("train --epochs -1", "epochs must be at least 0, not -1"),
    ("train --n-train 0", "no images to train on"),
    ("train --n-train 960001", "n_train must be between 0 and 960000, not 960001"),
    ("train --n-train 20 --epochs 1 --out empty", "cannot write 'empty' (Is a directory)"),
    ("train --n-train 20 --epochs 1 --out model.npz/below", "cannot write 'model.npz/below'"),
    ("fonts bogus", "No such command 'bogus'"),
    ("fonts --out model.npz", "cannot write 'model.npz/prototypes.png'"),
    ("fonts --prototypes missing.npz --out new", "no prototypes file 'missing.npz'"),
    ("fonts --prototypes text.npz --out new", "'text.npz' is not a file of font prototypes"),
    ("fonts --prototypes model.npz --out new", "'model.npz' is not a file of font prototypes"),
    ("fonts --prototypes other.npz --out new", "'other.npz' holds float64 of shape (3,)"),
    ("fonts --out new build full", "--out has no effect before `build`: see `python -m hlf_np fonts --help`"),
    ("fonts build", "Missing argument 'DIRECTORIES...'"),
    ("fonts build missing", "missing is not a directory"),
    ("fonts build empty", "no font files in empty"),
    ("fonts build empty --faces 0", "Invalid value for '--faces'"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_a_mistake_is_one_clear_line_and_loses_nothing(workplace, monkeypatch, arguments, message):
    monkeypatch.chdir(workplace)
    before = tree(workplace)
    code, output, errors = main(*arguments.format(long="x" * 300).split())
    assert (code, output) == (2, "")
    assert errors.startswith("hlf_np: ")
    assert errors.count("\n") == 1
    assert errors.endswith("\n")
    assert message in errors
    assert tree(workplace) == before


@pytest.mark.parametrize("arguments", [("run", "--sizes", "0"), ("evaluate", "missing.npz"), ("report", "missing")])
def test_a_mistake_in_a_process_of_its_own_is_one_line_too(tmp_path, arguments):
    done = command(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not any(tmp_path.iterdir())


@pytest.mark.stress
def test_a_report_that_nobody_reads_on_ends_without_complaint(workplace):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody:
        done = command("report", workplace / "done", stdout=nobody)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.stress
def test_a_disk_that_takes_no_more_output_is_one_line(workplace):
    with open("/dev/full", "w") as full:
        done = command("report", workplace / "done", stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("hlf_np: cannot read or write a file (No space left on device): ")
    assert done.stderr.count("\n") == 1


def test_a_number_of_threads_set_from_outside_is_kept_or_named(run_python):
    code = "from hlf_np.support.threads import use_threads; print(use_threads({}))"
    assert run_python(code.format("None"), NUMBA_NUM_THREADS="1") == "1\n"
    caught = (
        "from hlf_np.support.threads import use_threads\ntry: use_threads(7)\nexcept ValueError as error: print(error)"
    )
    assert "at most 1, not 7: unset NUMBA_NUM_THREADS" in run_python(caught, NUMBA_NUM_THREADS="1")


def test_too_little_memory_is_one_line(monkeypatch, tmp_path):
    def exhaust(*arguments, **settings):
        raise MemoryError

    monkeypatch.setattr("hlf_np.training.train", exhaust)
    code, output, errors = main("train", "--n-train", 10, "--out", tmp_path / "model.npz")
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "out of memory: choose smaller networks or fewer images" in errors
    assert not any(tmp_path.iterdir())


def test_an_interrupted_training_does_not_promise_to_go_on(monkeypatch, tmp_path):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("hlf_np.training.train", interrupt)
    code, output, errors = main("train", "--n-train", 10, "--out", tmp_path / "model.npz")
    assert (code, output, errors.strip()) == (130, "", "Interrupted.")
    assert not any(tmp_path.iterdir())
