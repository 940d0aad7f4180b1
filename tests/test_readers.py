"""Reading a file gives the content that was written, or an error of one clear line, whatever is in the file.

Files are damaged at random and on purpose: flipped bits; lost, added and moved bytes; headers with wrong sizes; JSON of
any structure. A reader may only raise `UserError`, must not allocate more memory than the file justifies, and must not
leave anything behind. The fast tests try about 600 files, the slow ones 9000.
"""

import copy as copies
import errno
import io
import json
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from helpers import TINY, made_up, main, tree
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hlf_np import UserError, models
from hlf_np.data.fonts import load_prototypes
from hlf_np.experiments.configuration.config import RunConfig
from hlf_np.experiments.storage.folder import open_store, stored_config
from hlf_np.manifolds import Vae, VaeConfig, load_vae, stored_vaes
from hlf_np.manifolds.oracle import stored_oracle
from hlf_np.support import files
from hlf_np.support.files import read_arrays

MEMORY = 32 * 2**20  # bytes that reading a hostile file may take
effort = pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.slow)])


def fuzz(examples, *strategies):
    """Return a decorator that calls a function immediately, with many random examples."""

    def decorate(function):
        chosen = settings(max_examples=examples, suppress_health_check=list(HealthCheck))
        chosen(given(*strategies)(function))()

    return decorate


def outcome(read, *arguments):
    """Return what a reader returns, and the message of its `UserError`; other exceptions are not caught."""
    try:
        return read(*arguments), ""
    except UserError as error:
        return None, str(error)


def small_model():
    return models.cnn(classes=3, widths=(2,), hidden_units=2, image_shape=(4, 4, 1))


def small_vae():
    return Vae(VaeConfig(channels=(2,), latent_dimensions=2, image_shape=(4, 4, 1)))


def read_cell(path):
    (cell,) = (cell for cell in TINY.cells() if cell.name == path.stem)
    with open_store(path.parents[1], TINY) as store:
        return store.load(cell)


def content_of(found):
    """Return what was read in a form that can be compared."""
    if hasattr(found, "state_dict"):
        return {name: array.tobytes() for name, array in found.state_dict().items()}
    if isinstance(found, np.ndarray):
        return found.tobytes()
    arrays = [array.tobytes() for examples in found.examples.values() for array in vars(examples).values()]
    return str(found.measurements), arrays, [array.tobytes() for array in found.distances.values()]


def write_prototypes(folder):
    path = folder / "prototypes.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).integers(0, 255, (1, 10, 28, 28), dtype=np.uint8))
    return path


def write_model(folder):
    small_model().save(folder / "model.npz")
    return folder / "model.npz"


def write_vae(folder):
    small_vae().save(folder / "vae.npz")
    return folder / "vae.npz"


def write_cell(folder):
    result = made_up(n_train=10, examples=2, distances={"regular": [1, 2.5], "clean": []})
    with open_store(folder / "results", TINY) as store:
        store.save(result, small_model())
    return folder / "results" / "cells" / f"{result.cell.name}.npz"


READERS = {
    "model": (write_model, models.load),
    "VAE": (write_vae, load_vae),
    "prototypes": (write_prototypes, load_prototypes),
    "cell": (write_cell, read_cell),
}
every_reader = pytest.mark.parametrize(("write", "read"), READERS.values(), ids=READERS)


# --- damage ---------------------------------------------------------------------------------------------------


@st.composite
def edits(draw):
    """Draw a function that damages bytes, at positions that are fractions of their length."""
    kind, place = draw(st.sampled_from(["flip", "cut", "insert", "overwrite", "lose", "move"])), draw(st.floats(0, 1))
    other, piece = draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=12))

    def edit(content):
        at, end = round(place * len(content)), round(other * len(content))
        if kind == "flip":
            return content[:at] + bytes(b ^ 1 << piece[0] % 8 for b in content[at : at + 1]) + content[at + 1 :]
        if kind == "cut":
            return content[:at]
        if kind == "insert":
            return content[:at] + piece + content[at:]
        if kind == "overwrite":
            return content[:at] + piece + content[at + len(piece) :]
        if kind == "lose":
            return content[:at] + content[at + len(piece) :]
        return content[:at] + content[end : end + 40] + content[at:]

    return edit


@every_reader
@effort
def test_damaged_files_give_their_content_or_one_clear_line(write, read, examples, tmp_path):
    path = write(tmp_path)
    intact, expected = path.read_bytes(), content_of(read(path))
    refused = []

    @fuzz(examples, st.lists(edits(), min_size=1, max_size=3))
    def attempt(chosen):
        content = intact
        for edit in chosen:
            content = edit(content)
        path.write_bytes(content)
        before = tree(tmp_path)
        found, said = outcome(read, path)
        if found is None:
            refused.append(said)
        else:
            assert content_of(found) == expected
        assert tree(tmp_path) == before

    assert len(refused) > examples / 4
    assert all(str(path) in message and "\n" not in message for message in refused)


# --- archives made to harm ------------------------------------------------------------------------------------


def header(shape, descr="'<f4'", version=1):
    """Return the header of a .npy file."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def archive(path, *members, compression=zipfile.ZIP_DEFLATED):
    """Write a zip file of (name, content)."""
    with zipfile.ZipFile(path, "w", compression) as zipped:
        for name, content in members:
            zipped.writestr(name, content)


def claim(path, size):
    """Change the size of the only member in the directory of a zip file."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(content)


def pickled():
    stream = io.BytesIO()
    np.save(stream, np.array([print, {}], object), allow_pickle=True)
    return stream.getvalue()


NUMBER = header("(1,)") + bytes(4)
HARMFUL = {
    "more than there is": lambda p: archive(p, ("a.npy", header("(1000000000000,)") + bytes(4))),
    "one number more": lambda p: archive(p, ("a.npy", header("(2,)") + bytes(4))),
    "one byte more": lambda p: archive(p, ("a.npy", NUMBER + b"x")),
    "shape beyond any integer": lambda p: archive(p, ("a.npy", header(f"({10**30},)"))),
    "negative shape": lambda p: archive(p, ("a.npy", header("(-1, -1)") + bytes(4))),
    "shape of another kind": lambda p: archive(p, ("a.npy", header("'many'") + bytes(4))),
    "numbers without size": lambda p: archive(p, ("a.npy", header(f"({10**15},)", "'<U0'"))),
    "records": lambda p: archive(p, ("a.npy", header("(1,)", "[('x', '<f4')]") + bytes(4))),
    "objects": lambda p: archive(p, ("a.npy", header("(1,)", "'|O'") + bytes(8))),
    "pickle": lambda p: archive(p, ("a.npy", pickled())),
    "bare pickle": lambda p: p.write_bytes(b"\x80\x04K\x01."),
    "code": lambda p: archive(p, ("a.npy", header("(1,)", "__import__('os').getcwd()") + bytes(4))),
    "deep header": lambda p: archive(p, ("a.npy", header("(" * 5000 + ")" * 5000))),
    "header without end": lambda p: archive(p, ("a.npy", header(" " * 50_000_000, version=2))),
    "header of the future": lambda p: archive(p, ("a.npy", header("(1,)", version=9) + bytes(4))),
    "text": lambda p: archive(p, ("a.npy", b"a,b\n1,2\n")),
    "other members": lambda p: archive(p, ("a.npy", NUMBER), ("a.exe", b"MZ")),
    "two of one name": lambda p: archive(p, ("a.npy", NUMBER), ("b.npy", NUMBER), ("b.npy", NUMBER)),
    "larger in the directory": lambda p: (archive(p, ("a.npy", NUMBER)), claim(p, len(NUMBER) + 4)),
    "smaller in the directory": lambda p: (archive(p, ("a.npy", NUMBER)), claim(p, len(NUMBER) - 4)),
    "enormous in the directory": lambda p: (archive(p, ("a.npy", NUMBER)), claim(p, 2**32 - 2)),
    "pipe": lambda p: os.mkfifo(p),
    "device": lambda p: p.symlink_to("/dev/zero"),
    "itself": lambda p: p.symlink_to(p.name),
    "folder": lambda p: p.mkdir(),
}


def assert_modest(action):
    """Call a function and check that it allocates little memory."""
    tracemalloc.start()
    try:
        action()
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", HARMFUL.values(), ids=HARMFUL)
def test_archives_made_to_harm_are_refused(make, tmp_path):
    path = tmp_path / "harmful.npz"
    make(path)

    def refused():
        with pytest.raises((ValueError, FileNotFoundError), match=r"is not an archive|harmful"):
            read_arrays(path)
        for _, read in list(READERS.values())[:3]:
            with pytest.raises(UserError, match=r"damaged|there is no"):
                read(path)

    assert_modest(refused)
    assert os.listdir(tmp_path) == ["harmful.npz"]


def test_bombs_are_not_unpacked(tmp_path, monkeypatch):
    zeros = 40 * 2**20
    monkeypatch.setattr(files, "MAX_ARCHIVE_BYTES", zeros // 4)
    path = tmp_path / "bomb.npz"
    archive(path, ("a.npy", header(f"({zeros},)", "'|u1'") + bytes(zeros)))
    assert path.stat().st_size < zeros / 500

    def refused():
        with pytest.raises(ValueError, match="is not an archive"):
            read_arrays(path)

    assert_modest(refused)
    path.write_bytes(path.read_bytes() + bytes(zeros))  # as large on disk
    assert_modest(refused)


def test_names_are_only_names(tmp_path):
    """The paths of members are not used as paths."""
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    names = ["../../escaped", "/tmp/escaped", "..\\escaped", "con", "", "a/../b"]
    archive(place / "paths.npz", *((f"{name}.npy", NUMBER) for name in names))
    found = read_arrays(place / "paths.npz")
    assert len(found) == len(names)
    assert set(tree(tmp_path)) == {"a/b/paths.npz"}
    with pytest.raises(UserError, match="not a model file"):
        models.load(place / "paths.npz")


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_come_back_as_numpy_wrote_them(tmp_path, compressed):
    random = np.random.default_rng(0)
    arrays = {
        "float32": random.random((3, 4), np.float32),
        "columns": np.asfortranarray(random.random((3, 4))),
        "empty": np.zeros((0, 5), np.int64),
        "scalar": np.array(3.5),
        "text": np.array("größer"),
        "no text": np.array(""),
        "texts": np.array(["a", "bcd"]),
        "truths": random.random(5) > 0.5,
        "other/order": np.arange(3, dtype=">i4"),
        "large": random.integers(0, 255, 3 * 2**20, dtype=np.uint8),
    }
    (np.savez_compressed if compressed else np.savez)(tmp_path / "file.npz", **arrays)
    found = read_arrays(tmp_path / "file.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert found[name].flags.writeable


# --- descriptions ---------------------------------------------------------------------------------------------

numbers = st.integers() | st.integers(10**6, 10**12) | st.floats() | st.just(10**400)
plain = st.none() | st.booleans() | numbers | st.text(max_size=4)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner))


def places(content, at=()):
    """Yield the path of keys to every value inside JSON."""
    yield at
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from places(value, (*at, key))


def changed(content, change):
    """Return JSON with some values changed; a change is (fraction that chooses the value, remove it, new value)."""
    content = copies.deepcopy(content)
    for fraction, remove, value in change:
        found = list(places(content))
        *way, last = found[round(fraction * (len(found) - 1))] or (None,)
        if last is None:
            return value
        inner = content
        for key in way:
            inner = inner[key]
        if remove:
            del inner[last]
        else:
            inner[last] = value
    return content


changes = st.lists(st.tuples(st.floats(0, 1), st.booleans(), values), min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("write", "read", "entry"), [(*READERS["model"], "architecture"), (*READERS["VAE"], "vae")], ids=["model", "VAE"]
)
@effort
def test_descriptions_of_any_shape_are_refused_or_fit_the_weights(write, read, entry, examples, tmp_path):
    path = write(tmp_path)
    with np.load(path) as stored:
        arrays = dict(stored)
    intact = json.loads(str(arrays[entry]))
    expected = content_of(read(path))

    @fuzz(examples, changes)
    def attempt(chosen):
        np.savez(path, **arrays | {entry: np.array(json.dumps(changed(intact, chosen)))})
        found, said = outcome(read, path)
        if found is None:
            assert "is not a" in said or "architecture" in said or "shape" in said
        else:
            assert content_of(found) == expected


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"kind": "cnn"}' * 2, "NaN", '"cnn"', "\x00", "{}"],
    ids=["deep list", "deep object", "digits", "two", "NaN", "text", "zero", "empty"],
)
def test_json_that_is_none_is_refused(text, tmp_path):
    np.savez(tmp_path / "file.npz", architecture=np.array(text), vae=np.array(text), content=np.array(text))
    for read in (models.load, load_vae):
        with pytest.raises(UserError, match="is not a"):
            read(tmp_path / "file.npz")
    path = write_cell(tmp_path)
    path.write_bytes((tmp_path / "file.npz").read_bytes())
    with pytest.raises(UserError, match="is damaged"):
        read_cell(path)
    settings_path = tmp_path / "results" / "config.json"
    settings_path.write_text(text)
    with pytest.raises(UserError, match="was not written by this program"):
        stored_config(tmp_path / "results")


@pytest.mark.parametrize(
    "claimed",
    [
        {"widths": [10**5, 10**5]},
        {"widths": [10**12]},
        {"hidden_units": 10**9},
        {"classes": 10**10},
        {"image_shape": [10**6, 10**6, 1]},
        {"kind": "mlp", "widths": [10**6] * 50},
        {"kind": "resnet", "widths": [64], "blocks": [10**9]},
    ],
    ids=str,
)
def test_a_description_claims_no_memory_that_its_weights_do_not_fill(claimed, tmp_path):
    path = write_model(tmp_path)
    with np.load(path) as stored:
        arrays = dict(stored)
    description = json.loads(str(arrays["architecture"])) | claimed
    np.savez(path, **arrays | {"architecture": np.array(json.dumps(description))})

    def refused():
        with pytest.raises(UserError, match="is not a model file, or is damaged"):
            models.load(path)

    assert_modest(refused)


@pytest.mark.parametrize(
    ("name", "spoiled", "said"),
    [
        ("0.weight", lambda a: a.astype(np.float64) * 1e200, "finite"),
        ("0.weight", lambda a: a.astype(complex), "damaged"),
        ("0.weight", lambda a: np.concatenate([a, a]), "shape"),
        ("1.running_var", lambda a: a - 2, "negative variances"),
        ("1.bias", lambda a: a / 0, "finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_no_network_can_have_are_refused(name, spoiled, said, tmp_path):
    path = write_model(tmp_path)
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **arrays | {name: spoiled(arrays[name])})
    with pytest.raises(UserError, match=said) as caught:
        models.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [models.load, load_vae])
def test_a_file_that_may_not_be_read_is_not_called_damaged(read, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = write_model(tmp_path)
    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    with pytest.raises(UserError, match=r"cannot read '.*model\.npz' \(Permission denied\)") as caught:
        read(path)
    assert "damaged" not in str(caught.value)


# --- results folders ------------------------------------------------------------------------------------------


@effort
def test_settings_of_any_shape_are_refused_or_a_configuration(examples, tmp_path):
    with open_store(tmp_path / "results", TINY):
        pass
    path = tmp_path / "results" / "config.json"
    intact = json.loads(path.read_text())

    @fuzz(examples, changes)
    def attempt(chosen):
        text = json.dumps(changed(intact, chosen))
        path.write_text(text)
        before = tree(tmp_path)
        found, said = outcome(stored_config, tmp_path / "results")
        assert isinstance(found, RunConfig) or "was not written by this program" in said or "needs the plugin" in said
        assert tree(tmp_path) == before


@effort
def test_contents_of_any_shape_are_refused_or_a_cell(examples, tmp_path):
    path = write_cell(tmp_path)
    with np.load(path) as stored:
        arrays = dict(stored)
    intact = json.loads(str(arrays["content"]))

    @fuzz(examples, changes, st.sampled_from([name for name in arrays if name != "content"]), st.integers(0, 5))
    def attempt(chosen, name, kind):
        spoiled = [
            lambda a: a,
            lambda a: a[..., None],
            lambda a: a[:1],
            lambda a: a.astype(str),
            lambda a: a.astype(np.float64) * np.nan,
            lambda a: -a.astype(np.int64),
        ][kind]
        content = changed(intact, chosen)
        np.savez(path, **arrays | {"content": np.array(json.dumps(content)), name: spoiled(arrays[name])})
        found, said = outcome(read_cell, path)
        if found is None:
            refusals = "is damaged: delete it", "holds the results of", "was computed with other settings", "the plugin"
            assert any(refusal in said for refusal in refusals)
        else:
            assert all(isinstance(value, float) for value in found.measurements.values())
            for examples in found.examples.values():
                assert examples.originals.shape == examples.adversarial.shape
                assert len(examples.labels) == len(examples.predictions) == len(examples.originals)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]", b"{}", b'{"run": {}}', b'{"run": [], "command": ""}'])
def test_settings_that_are_none_are_one_clear_line(content, copy):
    (copy / "config.json").write_bytes(content)
    before = tree(copy)
    code, output, errors = main("report", copy)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "was not written by this program" in errors
    assert tree(copy) == before


def test_settings_that_never_end_are_not_read(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    with (folder / "config.json").open("wb") as stream:
        stream.truncate(2**32)

    def refused():
        with pytest.raises(UserError, match="was not written by this program"):
            stored_config(folder)

    assert_modest(refused)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(UserError, match="was not written by this program"):
        stored_config(folder)


def test_opening_a_folder_leaves_alone_what_links_point_to(copy, tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("thesis.txt", ".draft.tmp"):
        (tmp_path / "mine" / name).write_text("years of work")
    (copy / ".lock").unlink(missing_ok=True)
    (copy / ".lock").symlink_to(tmp_path / "mine" / "thesis.txt")
    (copy / "cells" / ".elsewhere.tmp").symlink_to(tmp_path / "mine" / "thesis.txt")
    (copy / "models" / "mine").symlink_to(tmp_path / "mine")
    (copy / "models" / ".folder.tmp").mkdir()
    with open_store(copy, stored_config(copy)):
        pass
    assert set(tree(tmp_path / "mine").values()) == {b"years of work"}
    assert len(tree(tmp_path / "mine")) == 2


def test_a_folder_of_somebody_else_is_left_as_it_is(tmp_path):
    for name in ("config.json", ".notes.tmp", "sub/.draft.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"name": "my project"}')
    with pytest.raises(UserError, match="was not written by this program"), open_store(tmp_path, TINY):
        pass
    assert {".notes.tmp", "sub/.draft.tmp"} <= tree(tmp_path).keys()


@effort
def test_damaged_manifolds_are_one_clear_line(examples, tmp_path):
    for label in range(3):
        small_vae().save(tmp_path / f"vae-{label}-0.npz")
    small_model().save(tmp_path / "oracle-0.npz")
    paths = sorted(tmp_path.iterdir())
    intact = {path: path.read_bytes() for path in paths}

    @fuzz(examples, st.sampled_from(paths), edits())
    def attempt(path, edit):
        content = edit(intact[path])
        assume(content != intact[path])
        path.write_bytes(content)
        for read in (lambda: stored_vaes(tmp_path, 3), lambda: stored_oracle(tmp_path)):
            found, said = outcome(read)
            assert found is not None or str(path) in said
        path.write_bytes(intact[path])

    (tmp_path / "vae-1-1.npz").mkdir()
    with pytest.raises(UserError, match="holds 2 VAEs of class 1"):
        stored_vaes(tmp_path, 3)
