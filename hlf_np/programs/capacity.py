"""How many images a workspace holds.

A thread computes a few images at a time, layer by layer. With more images, the rows of the matrix products fill whole
tiles, and each weight that is read serves more of them. With fewer, what a layer writes is still in the core's
second-level cache when the next layer reads it. The estimate adds up, for each image and in units of a multiply-add:

    time(n)  =  sum over products   weights * (rows of all tiles for n images) / n        incomplete tiles
              + sum over products   weights / n                                           reading them
              + sum over layers     LOAD_COST * values read and written,                  unless they fit into the
                                                                                          cache for n images

No result depends on this number, as every image is computed by itself.
"""

from functools import cache
from pathlib import Path

from hlf_np.kernels.products.tile import TILE_ROWS
from hlf_np.programs.affine import Affine
from hlf_np.programs.graph import Graph
from hlf_np.programs.values import Node

MOST_IMAGES = 24
CHOICES = (MOST_IMAGES, 12, 6, 3, 2, 1)  # whole tiles, or parts of them
SAME_TIME = 1.03  # estimates that differ by a smaller factor count as equal
MAX_ACTIVATIONS = 1 << 26  # elements of all activations of a workspace, a quarter of a gigabyte
LOAD_COST = 4  # multiply-adds of a core in the time in which it loads a value from the third-level cache
USUAL_CACHE = 1 << 20  # bytes of a second-level cache, where the system does not tell
_CACHE_SIZE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")  # on Linux


@cache
def cache_elements() -> int:
    """Return the float32 values that fit into half of a core's second-level cache; weights and tables need the rest."""
    try:
        size = int(_CACHE_SIZE.read_text().strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        size = USUAL_CACHE
    return size // 2 // 4


def capacity(graph: Graph) -> int:
    """Return how many images of a network are computed together, after `graph.choose_algorithms`.

    Among numbers whose estimates are about the same, the smallest needs the least memory.
    """
    activations = sum(value.pixels * value.stride for value in graph.values)
    possible = [images for images in CHOICES if images * activations <= MAX_ACTIVATIONS] or [1]
    times = {images: sum(_time(node, images) for node in graph.nodes) for images in possible}
    return min(images for images, time in times.items() if time <= SAME_TIME * min(times.values()))


def _time(node: Node, images: int) -> float:
    """Estimate the time that a node needs for an image if so many are computed together."""
    values = sum(value.pixels * value.stride for value in (*node.sources, node.target))
    time = 0.0 if images * values <= cache_elements() else float(LOAD_COST * values)
    if isinstance(node, Affine):
        rows, weights = node.product_rows, node.product_weights
        time += weights * (-(-images * rows // TILE_ROWS) * TILE_ROWS + 1) / images
    return time
