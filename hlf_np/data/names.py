"""Datasets that are known by name: their classes, and where to get them.

EMNIST (Cohen et al., 2017) has six splits, all of 28x28 images that are stored transposed: `digits`, which the paper
uses; `letters`, whose labels start from 1, with upper and lower case together; `byclass`, all 62 of 0-9, A-Z, a-z;
`bymerge` and `balanced`, 47 classes without those lower case letters that look like their capitals; and `mnist`.
"""

import re
import string

DIGITS, CAPITALS = tuple(string.digits), tuple(string.ascii_uppercase)
MERGED = (*DIGITS, *CAPITALS, *"abdefghnqrt")
CLASSES = {  # by the datasets' names
    "mnist": DIGITS,
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "emnist-balanced": MERGED,
    "emnist-byclass": (*DIGITS, *CAPITALS, *string.ascii_lowercase),
    "emnist-bymerge": MERGED,
    "emnist-digits": DIGITS,
    "emnist-letters": CAPITALS,
    "emnist-mnist": DIGITS,
    "qmnist": DIGITS,
}
EMNIST = "emnist-"
FIRST_LABEL = {"emnist-letters": 1}  # in the published files; 0 for all others
ORIGINS = {  # by a word in the name of what is missing
    "emnist": "get gzip.zip from https://www.nist.gov/itl/products-and-services/emnist-dataset and give its path",
    "fashion": (
        "install Debian's package dataset-fashion-mnist and give /usr/share/datasets/fashion-mnist,"
        " or a folder with the four files of https://github.com/zalandoresearch/fashion-mnist"
    ),
    "qmnist": "put the four files of https://github.com/facebookresearch/qmnist into a folder and give that",
    "kmnist": "put the files of https://github.com/rois-codh/kmnist into a folder and give that",
    "cifar": "get the binary version from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it and give its folder",
    "mnist": "put the four files of MNIST, train-images-idx3-ubyte.gz and so on, into a folder and give that",
}


def origin(name: str) -> str:
    """Where to get a dataset whose name or path is given, and where to put it."""
    known = [place for word, place in ORIGINS.items() if word in name.lower()]
    return known[0] if known else f"{ORIGINS['mnist']}; for EMNIST, {ORIGINS['emnist']}"


def normalised(name: str) -> str:
    """A name as datasets have it: lower case letters, digits and hyphens."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def may_be_named(name: str) -> bool:
    """Whether a dataset can have this name; EMNIST's are known, and "fonts" are not files."""
    known = name in CLASSES or not name.startswith(EMNIST)
    return known and name != "fonts" and name != "" and normalised(name) == name
