"""Thousands of damaged datasets: `python tests/fuzz_readers.py --count 3000 --first 0 --format npz`.

Each must end in a dataset that is one, or in a `UserError` of one line; in little memory, and in time.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import format_makers as make
import numpy as np
from idx_makers import idx_bytes, write_files

from hlf_np import UserError
from hlf_np.data import load

MEMORY = 48 * 2**20  # bytes that NumPy and Python may take for files of some kilobytes, except
# where damaged headers announce a bomb's zeros, and right they are, or one bomb is as large as it says, and the first
BOMBS = {"matlab": 224 * 2**20, "images": 160 * 2**20, "archive": 224 * 2**20}
ADDRESSES = 768 * 2**20  # bytes that anything may take
SECONDS = 20
SIZES = (0, 1, 2, 3, 7, 127, 128, 255, 256, 3072, 3073, 2**15, 2**16, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1)
Random = np.random.Generator
Files = dict[str, bytes]


class TooLate(BaseException):
    """It takes too long."""


class FaultError(AssertionError):
    """What must not be."""


# --- datasets -------------------------------------------------------------------------------------------------


def npz(random: Random) -> Files:
    shape = SHAPES[random.integers(len(SHAPES))]
    counts = {"train": 12, "test": 7} | ({"val": 5} if random.random() < 0.3 else {})
    parts = make.random_parts(random, counts, shape)
    if random.random() < 0.4:
        kind = random.choice(["f4", "f8", "f2", "i8", "?"])
        scale = 255 if kind.startswith("f") else 1
        parts = {part: ((images / scale).astype(kind), labels) for part, (images, labels) in parts.items()}
    makers = [make.keras, make.medmnist, make.plain, make.kmnist, lambda p: make.kmnist(p, "k49")]
    return makers[random.integers(len(makers))](parts)


SHAPES = ((4, 4), (4, 5, 1), (4, 4, 3), (3, 6, 6))


def cifar(random: Random) -> Files:
    fine = random.random() < 0.5
    parts = make.random_parts(random, {"train": 6, "test": 3}, (32, 32, 3), 100 if fine else 10)
    return make.cifar100(parts) if fine else make.cifar10(parts)


def matlab(random: Random) -> Files:
    parts = make.random_parts(random, {"train": 6, "test": 3}, (28, 28))
    split, first = ("letters", 1) if random.random() < 0.3 else ("digits", 0)
    return make.emnist_matlab(parts, split, random.random() < 0.7, first)


def images(random: Random) -> Files:
    shape = [(6, 5), (6, 5, 3), (6, 5, 4), (6, 5, 2)][random.integers(4)]
    kinds = ("png",) if shape[2:] in ((4,), (2,)) else ("png", "jpg", "bmp", "gif", "ppm")
    chosen = [str(random.choice(kinds)) for _ in range(3)]
    counts = [{"train": 6, "test": 3}, {"": 8}, {"train": 6, "val": 3}][random.integers(3)]
    return make.pictures(make.random_parts(random, counts, shape, 3), chosen)


def idx(random: Random) -> Files:
    parts = make.random_parts(random)
    files = make.mnist_idx(parts, ".gz" if random.random() < 0.5 else "")
    return make.emnist_idx(parts) if random.random() < 0.3 else files


def archive(random: Random) -> Files:
    inner = [idx, cifar, images, matlab][random.integers(4)](random)
    name = str(random.choice(["some.zip", "gzip.zip"]))
    return {name: make.zipped(inner, str(random.choice(["", "gzip/", "deep/er/", "//", "../"])))}


FORMATS: dict[str, Callable[[Random], Files]] = {
    "npz": npz,
    "cifar": cifar,
    "matlab": matlab,
    "images": images,
    "idx": idx,
    "archive": archive,
}


# --- damage ---------------------------------------------------------------------------------------------------


def number(random: Random) -> bytes:
    """A size as headers have it."""
    value, form = SIZES[random.integers(len(SIZES))], random.choice(["<I", ">I", "<Q", "<H", "B"])
    return struct.pack(form, value % 2 ** (8 * struct.calcsize(form)))


def spoil(random: Random, content: bytes) -> bytes:
    """Bytes that are damaged at one place, more often near the beginning."""
    size = len(content)
    at = int(random.integers(min(size, 200 if random.random() < 0.6 else size) + 1))
    end = min(size, at + int(random.integers(1, 64)))
    other = int(random.integers(size + 1))
    kind = random.choice(["cut", "flip", "number", "lose", "insert", "move", "fill"])
    if kind == "cut":
        return content[:other]
    if kind == "flip":
        flipped = bytearray(content)
        for place in random.integers(0, size, random.integers(1, 5)) if size else ():
            flipped[place] ^= 1 << int(random.integers(8))
        return bytes(flipped)
    if kind == "number":
        value = number(random)
        return content[:at] + value + content[at + len(value) :]
    if kind == "lose":
        return content[:at] + content[end:]
    if kind == "insert":
        return content[:at] + random.bytes(end - at) + content[at:]
    if kind == "move":
        return content[:at] + content[other : other + 64] + content[at:]
    return content[:at] + bytes([int(random.choice([0, 255, 32]))]) * (end - at) + content[end:]


def spoil_inside(random: Random, content: bytes) -> bytes:
    """What a container holds is damaged, so that its checksums are right."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as old:
            members = {name: old.read(name) for name in old.namelist()}
        name = str(random.choice(list(members)))
        if random.random() < 0.3:
            members[spoiled_name(random, name)] = members[name] if random.random() < 0.5 else random.bytes(40)
        else:
            members[name] = spoil_header(random, members[name])
        return make.zipped(members)
    if content.startswith(b"\x1f\x8b"):
        return gzip.compress(spoil(random, gzip.decompress(content)))
    if content.startswith(b"\x89PNG"):
        return spoil_png(random, content)
    if content.startswith(b"MATLAB") and content[128:132] == b"\x0f\0\0\0":
        inside = spoil(random, zlib.decompress(content[136:]))
        if random.random() < 0.7:
            inside = inside[:4] + struct.pack("<I", max(len(inside) - 8, 0)) + inside[8:]
        inner = zlib.compress(inside)
        return content[:132] + struct.pack("<I", len(inner)) + inner
    return spoil(random, content)


def spoiled_name(random: Random, name: str) -> str:
    names = [f"x/{name}", f"../{name}", f"/{name}", f"//{name}", f"{name}/", "", "a\\b.npy", "x_train.npy"]
    return str(random.choice(names))


def spoil_header(random: Random, content: bytes) -> bytes:
    """Of an array of NumPy, another type or shape; of other things, bytes."""
    if not content.startswith(b"\x93NUMPY") or random.random() < 0.4:
        return spoil_inside(random, content) if random.random() < 0.5 else spoil(random, content)
    (length,) = struct.unpack("<H", content[8:10])
    text, data = content[10 : 10 + length].decode(), content[10 + length :]
    old = text[text.index("'shape': ") + 9 : text.index(")") + 1]
    shape = [int(size) for size in old.strip("(),").split(",") if size.strip()]
    kind = random.integers(4)
    if kind == 0:
        types = ["|u1", "<f8", ">i4", "|O", "<U7", "<c8", "|S3", "<M8[s]", "|V4", "<f16", "|b1", "nonsense"]
        text = text.replace("|u1", str(random.choice(types)))
    elif kind == 1:
        shape[random.integers(len(shape))] = int(random.choice([0, -1, 1, 5, 2**31, 2**62]))
        text = text.replace(old, str(tuple(shape)))
    elif kind == 2:
        random.shuffle(shape)
        text = text.replace(old, str(tuple(shape)))
    else:
        text = text.replace("False", "True")
    return content[:8] + struct.pack("<H", len(text)) + text.encode() + data


def spoil_png(random: Random, content: bytes) -> bytes:
    """A chunk with other content, or another chunk, with the checksum that belongs to it."""
    chunks, at = [], 8
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    place = int(random.integers(len(chunks)))
    kind, data = chunks[place]
    if kind == b"IHDR" and random.random() < 0.7:
        where = int(random.choice([0, 4]))
        value = int(random.choice([0, 1, 9, 300, 4000, 5000, 2**20, 2**31 - 1]))
        data = data[:where] + struct.pack(">I", value) + data[where + 4 :]
    elif kind == b"IDAT" and random.random() < 0.5:
        data = zlib.compress(spoil(random, zlib.decompress(data))) if random.random() < 0.5 else zeros(zlib.compress)
    else:
        data = spoil(random, data)
    chunks[place] = kind, data
    if random.random() < 0.2:
        extra = random.choice(np.array([b"tRNS", b"PLTE", b"zTXt", b"iCCP", b"gAMA", b"acTL", b"eXIf", b"pHYs"]))
        content = b"a\0\0" + zeros(zlib.compress) if random.random() < 0.5 else random.bytes(9)
        chunks.insert(int(random.integers(1, len(chunks))), (bytes(extra), content))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(inner)) + kind + inner + struct.pack(">I", zlib.crc32(kind + inner))
        for kind, inner in chunks
    )


@cache
def zeros(compress: Callable[[bytes], bytes]) -> bytes:
    """A hundred million zeros, compressed."""
    return compress(bytes(100_000_000))


@cache
def enormous() -> bytes:
    """An `.npz` archive that claims to hold four thousand million bytes."""
    content = bytearray(make.npz(True, images=np.zeros((9, 4, 4), np.uint8), labels=np.arange(9)))
    for at in [at for at in range(len(content)) if content[at : at + 4] == b"PK\x01\x02"]:
        content[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
    return bytes(content)


def bomb(random: Random, name: str) -> bytes:
    """A file that could yield much more than it is."""
    if name.endswith(".npz"):
        return enormous()
    if name.endswith(".mat"):
        packed = zeros(zlib.compress)
        header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
        return header + struct.pack("<II", 15, len(packed)) + packed
    if name.endswith(".png"):
        data = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + data
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    if name.endswith(".ppm"):
        return b"P6 99999 99999 255\n" + bytes(99)
    if name.endswith(".bmp"):
        return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 200, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    if name.endswith(".gif"):
        return b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20)
    return zeros(gzip.compress) if random.random() < 0.5 else gzip.compress(idx_bytes(np.ones((12, 4, 4)))) + bytes(999)


def damage(random: Random, files: Files) -> Files:
    """Files of which something is not as it was."""
    files = dict(files)
    name = str(random.choice(list(files)))
    other = str(random.choice(list(files)))
    kind = random.random()
    if kind < 0.35:
        files[name] = spoil(random, files[name])
    elif kind < 0.75:
        try:
            files[name] = spoil_inside(random, files[name])
        except Exception:  # it was spoiled before
            files[name] = spoil(random, files[name])
    elif kind < 0.82:
        files[name], files[other] = files[other], files[name]
    elif kind < 0.87:
        files[f"{name}{random.choice(['.gz', '.png', 'x', '~'])}" if random.random() < 0.5 else other] = files.pop(name)
    elif kind < 0.90 and len(files) > 1:
        del files[name]
    elif kind < 0.95:
        files[name] = bomb(random, name)
    else:
        files[name] = bytes(SIZES[random.integers(12)])
    return files


def oddity(random: Random, folder: Path) -> None:
    """In place of a file, something else."""
    file = sorted(path for path in folder.rglob("*") if path.is_file())[0]
    if len(str(file)) > 3:
        file.unlink()
        kind = random.integers(4)
        if kind == 0:
            os.mkfifo(file)
        elif kind == 1:
            file.mkdir()
        else:
            file.symlink_to(file.name if kind == 2 else "/dev/zero")


# --- what must be ---------------------------------------------------------------------------------------------


def check(name: str, seed: int, folder: Path) -> str:
    """The outcome of one damaged dataset, "loaded" or what is said; `FaultError` for all that must not be."""
    random = np.random.default_rng([seed, *name.encode()])
    files = FORMATS[name](random)
    for _ in range(int(random.integers(0, 3)) if random.random() < 0.9 else 6):
        files = damage(random, files) if files else files
    write_files(folder, files)
    if random.random() < 0.03 and files:
        oddity(random, folder)
    path = folder
    if name == "archive" or (name in ("npz", "matlab") and random.random() < 0.3):
        path = next((folder / file for file in files), folder)
    size = int(random.choice([1, 8, 33])) if random.random() < 0.2 and name in ("images", "archive") else None
    wanted = str(random.choice(["own", "cifar-100-coarse", "k49", "emnist-letters"])) if random.random() < 0.1 else None
    tracemalloc.start()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = load(path, wanted, size)
    except UserError as error:
        said = str(error)
        if len(said.splitlines()) != 1 or len(said) > 700 or "MemoryError" in said or "allocate" in said:
            raise FaultError(f"said {said!r}") from error
        return said
    except (TooLate, Exception) as error:
        raise FaultError(f"{type(error).__name__}: {error}") from error
    else:
        for part in (data.train, data.test):
            numbers = part.images
            if not (
                (numbers.dtype, part.labels.dtype) == (np.float32, np.int64)
                and numbers.ndim == 4
                and len(numbers) == len(part.labels) > 0
                and numbers.shape[1:] == data.train.images.shape[1:]
                and numbers.size
                and numbers.min() >= 0
                and numbers.max() <= 1
                and part.labels.min() >= 0
                and part.labels.max() < len(data.classes)
            ):
                raise FaultError("a dataset that is none")
        return "loaded"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak > BOMBS.get(name, MEMORY):
            raise FaultError(f"took {peak / 2**20:.0f} MiB")


def late(*_: object) -> None:
    raise TooLate(f"not done after {SECONDS} seconds")


def run(names: list[str], seeds: range, show: Callable[[str], None] = print) -> tuple[Counter[str], Counter[str]]:
    """How many datasets of each outcome there are, and how often what was said."""
    outcomes: Counter[str] = Counter()
    sayings: Counter[str] = Counter()
    before = signal.signal(signal.SIGALRM, late)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    zeros(gzip.compress), zeros(zlib.compress), enormous()
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESSES, limits[1]))
    place = Path(tempfile.mkdtemp())
    try:
        for name in names:
            for seed in seeds:
                folder = place / "data"
                try:
                    said = check(name, seed, folder)
                    outcomes[f"{name} {'loaded' if said == 'loaded' else 'refused'}"] += 1
                    sayings[" ".join(word for word in said.split() if str(place) not in word)] += 1
                except FaultError as wrong:
                    outcomes[f"{name} wrong"] += 1
                    show(f"[{name} {seed}] {wrong}")
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)
    return outcomes, sayings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="how many datasets of each format")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--format", choices=FORMATS, action="append", help="only this one; may be repeated")
    parser.add_argument("--sayings", action="store_true", help="show what was said, and how often")
    given = parser.parse_args()
    started = time.monotonic()
    outcomes, sayings = run(given.format or list(FORMATS), range(given.first, given.first + given.count))
    for said, times in sayings.most_common() if given.sayings else ():
        print(f"{times:6} {said}")
    for outcome, times in sorted(outcomes.items()):
        print(f"{times:6} {outcome}")
    print(f"{outcomes.total()} datasets in {time.monotonic() - started:.0f} seconds")
    return 1 if any("wrong" in outcome for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
