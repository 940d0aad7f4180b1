"""The results folder: files are written atomically, cells are loaded unchanged, other folders are left alone."""

import json
import math
import os
import resource
import shutil
import stat
from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY, Killed, compute, made_up, numbers, tree

from hlf_np import UserError, models
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.storage.folder import open_store, stored_config
from hlf_np.experiments.storage.store import Store, _number
from hlf_np.spaces import Norm
from hlf_np.support.files import check_writable, read_arrays, replace_file, write_text
from hlf_np.trainings import ADVERSARIAL, NORMAL, ON_TRUE_MANIFOLD

# --- files ----------------------------------------------------------------------------------------------------


def test_files_appear_whole_and_readable_with_the_folders_they_need(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    with replace_file(path) as stream:
        stream.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
    assert tree(tmp_path).keys() == {"a/b/c.txt"}


def test_small_numbers_keep_their_digits():
    values = {
        0.0: "0.000000",
        0.25: "0.250000",
        12.3456789: "12.345679",
        4.2e-7: "4.2e-07",
        -1.2345678e-4: "-0.000123457",
    }
    assert [_number(value) for value in values] == list(values.values())
    assert _number(float("nan")) == ""


def test_new_files_have_the_permissions_that_the_user_gives(tmp_path):
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "private", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Killed])
def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write():
        with replace_file(path) as stream:
            stream.write(b"half of the new")
            raise error

    with pytest.raises(error):
        write()
    assert tree(tmp_path) == {"file": b"old"}


def test_a_full_disk_is_one_clear_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*file.*: free some space"):
            write_text(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("place", ["folder", "file/below", "n" * 300])
def test_places_that_cannot_be_written_are_refused_before_and_when_writing(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for attempt in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(UserError, match="cannot write"):
            attempt(tmp_path / place)
    check_writable(tmp_path / "file")
    assert tree(tmp_path) == {"file": b""}


# --- cells ----------------------------------------------------------------------------------------------------


def test_cells_are_loaded_as_they_were_saved(tmp_path):
    measured = {"test_error": 1 / 3, "regular_success": 0.1}
    saved = made_up(ADVERSARIAL, 20, 0, 3, {"regular": [1, 2.5], "clean": []}, **measured)
    with open_store(tmp_path, TINY) as store:
        assert not store.has(saved.cell)
        store.save(saved, models.Model.from_architecture(TINY.architecture))
        assert store.has(saved.cell)
        (loaded,) = store.results()
        assert models.load(store.model_path(saved.cell)).architecture == TINY.architecture
    assert loaded.cell == saved.cell
    for name, value in saved.measurements.items():
        found = loaded.value(name)
        assert found == value or (math.isnan(found) and math.isnan(value)), name
    assert loaded.examples.keys() == saved.examples.keys()
    for kind, examples in saved.examples.items():
        for name, array in vars(examples).items():
            np.testing.assert_array_equal(getattr(loaded.examples[kind], name), array, strict=True)
    assert loaded.distances.keys() == saved.distances.keys()
    for kind, distances in saved.distances.items():
        np.testing.assert_array_equal(loaded.distances[kind], distances, strict=True)


def test_missing_measurements_are_empty_in_the_table(tmp_path):
    with open_store(tmp_path, TINY) as store:
        store.write_csv([made_up(n_train=10, regular_success=1 / 3), made_up(n_train=20, test_error=0.0)])
    first, second = numbers(tmp_path)
    assert first["regular_success"] == "0.333333"
    assert (second["test_error"], second["regular_success"]) == ("0.000000", "")
    assert first["on_true_manifold_success"] == first["on_learned_manifold_success"] == ""


def test_damaged_cells_are_refused_with_one_clear_line_or_read_unchanged(copy):
    config = stored_config(copy)
    cell = next(config.cells())
    path = copy / "cells" / f"{cell.name}.npz"
    intact = path.read_bytes()
    random = np.random.default_rng(0)
    messages = []
    with open_store(copy, config) as store:
        expected = store.load(cell)
        for place in random.integers(len(intact), size=300):
            damaged = bytearray(intact)
            damaged[place] ^= 1 << random.integers(8)
            path.write_bytes(damaged)
            try:
                found = store.load(cell)
            except UserError as error:
                messages.append(str(error))
            else:  # the bit was not part of the content
                for kind, examples in expected.examples.items():
                    np.testing.assert_array_equal(found.examples[kind].adversarial, examples.adversarial)
                for kind, distances in expected.distances.items():
                    np.testing.assert_array_equal(found.distances[kind], distances)
                assert str(found.measurements) == str(expected.measurements)
        for length in (0, 1, len(intact) // 2, len(intact) - 1):
            path.write_bytes(intact[:length])
            with pytest.raises(UserError, match="is damaged"):
                store.load(cell)
    assert len(messages) > 150  # most bits are content
    assert all(f"{cell.name}.npz' is damaged: delete it" in message for message in messages)


def test_results_under_the_name_of_another_cell_are_refused(copy):
    config = stored_config(copy)
    first, second = list(config.cells())[:2]
    shutil.copy(copy / "cells" / f"{first.name}.npz", copy / "cells" / f"{second.name}.npz")
    with open_store(copy, config) as store, pytest.raises(UserError, match=f"holds the results of {first.name}: re"):
        store.results()


def test_results_of_a_run_with_other_settings_are_refused(tmp_path):
    other = replace(TINY, norm=Norm.L2, seeds=2)
    with open_store(tmp_path / "other", other) as store:
        store.save(made_up(NORMAL, 20), None)
    shutil.copytree(tmp_path / "other" / "cells", tmp_path / "mine" / "cells")
    shutil.copy(tmp_path / "other" / "config.json", tmp_path / "mine")
    mine = Store(tmp_path / "mine", TINY)
    with pytest.raises(UserError, match=r"normal-20-0.npz' was computed with other settings \(different norm\): move"):
        mine.results()
    assert Store(tmp_path / "mine", replace(other, seeds=1, trainings=(NORMAL,))).results()  # the same settings


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_files_other_than_archives_raise_value_error(tmp_path, content):
    (tmp_path / "file.npz").write_bytes(content)
    with pytest.raises(ValueError, match="is not an archive"):
        read_arrays(tmp_path / "file.npz")
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "missing.npz")


# --- folders --------------------------------------------------------------------------------------------------


def test_config_json_contains_everything_to_repeat_the_run(finished):
    stored = json.loads((finished / "config.json").read_text())
    assert stored["run"] == json.loads(json.dumps(TINY.as_json()))
    assert stored_config(finished) == TINY
    assert {"hlf_np", "python", "numpy", "numba"} <= stored["versions"].keys()
    assert stored["command"].startswith("python -m hlf_np")


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seeds": 2, "epochs": 3}, "epochs, seeds"), ({"epsilon": 0.2}, "epsilon"), ({"prototypes": "0"}, "prototypes")],
)
def test_another_configuration_is_refused_by_name(copy, changes, named):
    before = tree(copy)
    with pytest.raises(UserError, match=rf"another configuration \(different {named}\)"):
        compute(copy, RunConfig(**vars(TINY) | changes))
    assert tree(copy) == before


def test_a_run_that_grows_ends_like_one_that_was_large_from_the_start(tmp_path):
    trainings = (ON_TRUE_MANIFOLD, ADVERSARIAL, NORMAL)
    full = replace(TINY, trainings=trainings, sizes=(20, 10), seeds=2, n_thorough=10, n_projected=0)
    compute(tmp_path / "small", replace(full, trainings=(NORMAL, ADVERSARIAL), sizes=(20,), seeds=1))
    cells = tree(tmp_path / "small" / "cells")
    compute(tmp_path / "small", full)
    compute(tmp_path / "large", full)
    assert cells.items() <= tree(tmp_path / "small" / "cells").items()
    assert numbers(tmp_path / "small") == numbers(tmp_path / "large")
    assert stored_config(tmp_path / "small") == full


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sizes": (10, 20, 30)}, "sizes"),  # fitted boxes and thorough attacks may depend on the largest
        ({"seeds": 2, "sizes": (20,)}, "seeds, sizes"),
        ({"seeds": 2, "trainings": (NORMAL, ON_TRUE_MANIFOLD)}, "seeds, trainings"),
    ],
)
def test_a_grid_that_would_lose_or_change_models_is_refused(copy, changes, named):
    before = tree(copy)
    with pytest.raises(UserError, match=rf"another configuration \(different {named}\)"):
        compute(copy, replace(TINY, **changes))
    assert tree(copy) == before


def test_settings_missing_in_older_configurations_take_their_defaults(copy):
    settings = copy / "config.json"
    content = json.loads(settings.read_text())
    for name in ("classes", "path", "digest", "n_data_vae", "norm", "variant", "carlini_wagner", "n_transfer"):
        assert content["run"].pop(name) == json.loads(json.dumps(vars(TINY)[name]))
    settings.write_text(json.dumps(content))
    before = tree(copy)
    assert stored_config(copy) == TINY
    compute(copy)
    assert tree(copy) == before
    with pytest.raises(UserError, match=r"another configuration \(different n_neighbours\)"):
        compute(copy, RunConfig(**vars(TINY) | {"n_neighbours": 9}))


@pytest.mark.parametrize("name", ["thesis.txt", ".hidden", "cells", "results.csv"])
def test_a_folder_with_other_files_is_refused_and_not_touched(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="contains other files"):
        compute(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_a_second_run_on_a_folder_is_refused_until_the_first_ends(copy):
    before = tree(copy)
    with open_store(copy, TINY):
        with pytest.raises(UserError, match="another run is writing to"):
            compute(copy)
        assert tree(copy) == before
    compute(copy)
