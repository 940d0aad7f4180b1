"""The classes of datasets that are known by name, and where to download them.

EMNIST (Cohen et al., 2017) has six splits of 28x28 images, which are stored transposed: `digits`, which the paper uses;
`letters`, upper and lower case together, with labels from 1; `byclass`, with the 62 classes 0-9, A-Z, a-z; `bymerge`
and `balanced`, 47 classes without the lower-case letters that look like their capitals; and `mnist`.
"""

import re
import string

DIGITS, CAPITALS = tuple(string.digits), tuple(string.ascii_uppercase)
MERGED = (*DIGITS, *CAPITALS, *"abdefghnqrt")
CLASS_NAMES = {  # by dataset
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
EMNIST_PREFIX = "emnist-"
FIRST_LABELS = {"emnist-letters": 1}  # in the published files; 0 for all other datasets
DOWNLOAD_HINTS = {  # by a word in the name or path of a missing dataset
    "emnist": "get gzip.zip from https://www.nist.gov/itl/products-and-services/emnist-dataset and give its path",
    "fashion": (
        "install Debian's package dataset-fashion-mnist and give /usr/share/datasets/fashion-mnist,"
        " or a folder with the four files of https://github.com/zalandoresearch/fashion-mnist"
    ),
    "qmnist": "put the four files of https://github.com/facebookresearch/qmnist into a folder and give its path",
    "kmnist": "put the files of https://github.com/rois-codh/kmnist into a folder and give its path",
    "cifar": "get the binary version from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it and give its folder",
    "mnist": "put the four files of MNIST, train-images-idx3-ubyte.gz and so on, into a folder and give its path",
}


def download_hint(name: str) -> str:
    """Return where to download the dataset of this name or path, and where to put it."""
    hints = [hint for word, hint in DOWNLOAD_HINTS.items() if word in name.lower()]
    return hints[0] if hints else f"{DOWNLOAD_HINTS['mnist']}; for EMNIST, {DOWNLOAD_HINTS['emnist']}"


def normalised_name(name: str) -> str:
    """Return the name in the form of dataset names: lower-case letters and digits, separated by hyphens."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def is_valid_name(name: str) -> bool:
    """Return whether a dataset of files may have this name; "fonts" and unknown splits of EMNIST are not allowed."""
    known = name in CLASS_NAMES or not name.startswith(EMNIST_PREFIX)
    return known and name != "fonts" and name != "" and normalised_name(name) == name
