"""The instruction set of compiled networks: one named tuple per kind of instruction, and their encoding.

`programs` lowers a network to lists of these tuples; `interpreter` executes them. `propagation` has the instructions
that compute activations and their gradients, `training` those that only training needs, and `encoding` stores a list of
instructions as one table of integers.

Every field is an int64. Most fields are *positions*: the index at which something begins in one of three flat arrays.

work
    float32, one per thread (in training one per part of the batch): the activations and their gradients of the few
    images that are computed together (the workspace, in the sense of LAPACK's `work` arrays).
weights
    float32, shared by all threads: the parameters of the layers, packed in the order in which the kernels read them,
    and constants.
tables
    int64: positions in `work`, one per pixel. A table has an entry for each pixel of each image of the workspace, image
    after image, so that the images from `first` to before `end` are one contiguous part of it.

Conventions for the names of fields:

- plain nouns (`sources`, `targets`, `weights`) are positions in `tables`, `weights` or `work`; the comment says which;
- `pixels` is the number of pixels of one image, `channels` the number of float32 values stored for one pixel (padded to
  whole vectors except for images of few channels), `columns` the number of channels of a product's result;
- `rows` is the number of rows of pixels of one image, `row_size` the number of values in one such row;
- `*_stride` is a distance in `work`, in elements, from one block, image or row to the next;
- `epilogue` is a combination of the flags in `kernels.products.tile` that says what happens to a result before it is
  stored; with MASK, `masks` is the table of the ReLU outputs that decide where a gradient is set to zero.
"""
