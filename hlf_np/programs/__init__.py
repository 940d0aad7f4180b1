"""Networks compiled into lists of instructions, and the way of one convolution through them.

The kernels know nothing about networks. They run lists of `kernels.instructions` over flat arrays, a few images at a
time. This package writes the lists. Take `Sequential(Convolution(16, 32, draws), BatchNorm(32), ReLU(), ...)`, where 14
rows and columns of 16 channels become 7 of 32 (kernel 4, stride 2, padding 1), and follow the convolution:

1. **Into the graph.** `graph.Graph` first asks the layers for their shapes (`Layer.output_shape`), so that what does
   not fit is refused before anything is laid out. Then it reads them one after another. `graph.READERS` says that a
   `Convolution` is read by `graph.read_affine`, which takes the `BatchNorm` and the `ReLU` behind it along: in
   evaluation mode batch norm is an affine map, and part of the weights (`Affine.folded`). One `Affine` node results,
   between two `values.Value`s, (14, 14, 16) and (7, 7, 32).
2. **Forms and frames.** `Graph.finish` lets every node choose how it will be computed (`Node.prepare`), now that all
   readers of all values are known. This one may be computed by Winograd's form, if that pays. If not, its windows reach
   one pixel beyond the image, so it asks its source for a frame of one pixel of zeros, and its target's gradient, too.
3. **Places.** `builder.Builder` gives away places in three flat arrays: work, tables and weights. The values get
   buffers for themselves and for their gradients; the weights get theirs as a matrix from the 4 x 4 x 16 numbers of a
   window to 32 channels (`Affine.place`). How they come there depends on the architecture alone, so it is found out
   once, with numbers that stand for the weights.
4. **Forwards.** `Affine.forward` calls `products.gather`, which writes one `instructions.Product`::

       y[n, i, j, :] = bias + window of x under (i, j), 4 rows of 4 * 16 contiguous numbers   times   matrix (256, 32)

       sources  : where each of the 49 windows of an image begins in the work    (table)
       segments : where the 4 rows of a window begin, relative to that            (table)
       targets  : where each of the 49 pixels goes                               (table)
       finish   : RELU

5. **Backwards.** `Affine.backward` writes the gradient with respect to the source. Input pixel k meets weight a at
   output pixel (k + 1 - a) / 2, where that is whole: even and odd pixels meet different weights. So `products.scatter`
   writes one `Product` for each of the 2 x 2 phases, from the 2 x 2 output gradients that a pixel of the phase meets,
   with a matrix (2 * 2 * 32, 16) of its weights. If the source is itself the output of a ReLU, and no other gradient is
   still to be added, `finish` is GATE: zero where the source is zero. `Value.next_finish` keeps count.
6. **To the tile.** `evaluation.Program` stores both lists as rows of integers. `kernels.executor.run_instructions`
   reads a row back as a `Product` and calls `kernels.convolution.product`, which goes through the rows of the product,
   12 at a time, and its columns, 32 at a time: each is one *tile*, whose sums stay in registers. `kernels.tile`
   explains it.
7. **In training** (`training.TrainingProgram`) batch norm stays a node of its own (`nodes.Norm`), and
   `Affine.parameter_gradients` writes the gradients with respect to weights and bias: sums over all pixels of all
   images of window times output gradient, again products of gathered rows (`kernels.outer_tile`).

`compiler` decides whether all this is used: a network of a new structure is first compared with the autodiff, and what
is not understood, or not right, the autodiff computes.

To add a layer: its class in `layers` with `output_shape`, its operation in `operations`, and here a `Node` that lowers
itself forward and backward, with its reader in `graph.READERS`. A new kind of instruction is a named tuple in
`kernels.instructions` and a branch in the executor.
"""
