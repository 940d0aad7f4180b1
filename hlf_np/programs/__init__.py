"""The compiler: turns a network into lists of instructions, which `hlf_np.kernels` executes.

The kernels know nothing about networks. They run lists of `kernels.instructions` over flat arrays, a few images at a
time. This package writes the lists. `hlf_np.kernels` describes the other half:

    layers.Convolution, BatchNorm, ReLU          a network, as the user writes it
        |   graph.read_affine                    fuses layers, checks shapes
        v
    affine.Affine                                a node between two values.Value: the intermediate representation
        |   Affine.forward, Affine.backward      lower the node, with programs.products, blocks or winograd
        v
    instructions.Product, ...                    named tuples of positions; encoded as rows of integers
        |   interpreter.executor                 reads a row, slices the arrays
        v
    products.product.product                 loops over 12 rows x 32 columns of the result
        |
        v
    products.tile                                one tile, whose sums stay in registers

**One convolution, from the layer to the tile.** Take `Sequential(Convolution(32, 16, random), BatchNorm(16), ReLU(),
...)` in evaluation mode. The convolution has kernel 4, stride 2 and padding 1, and turns 14 x 14 pixels of 32 channels
into 7 x 7 of 16.

1. **Graph.** `graph.Graph` first asks the layers for their output shapes (`Layer.output_shape`), so that layers that do
   not fit together are rejected before anything is allocated. Then it reads the layers one after another.
   `graph.READERS` says that a `Convolution` is read by `graph.read_affine`, which also consumes the `BatchNorm` and the
   `ReLU` after it: in evaluation mode batch norm is an affine map, which is folded into the weights (`Affine.folded`),
   and the ReLU becomes part of the *epilogue*, which is applied to the sums of a product before they are stored. The
   result is one `Affine` node between two values, of shapes (14, 14, 32) and (7, 7, 16).
2. **Algorithms and halos.** Now that all readers of all values are known, `Graph.choose_algorithms` lets every node
   choose how to compute (`Node.prepare`). Winograd's algorithm would not pay for so few output channels, so this node
   gathers windows. They extend one pixel beyond the image. So the node requests a halo of one pixel of zeros around its
   source, and one around the gradient of its target.
3. **Allocation.** `builder.Builder` allocates positions in three flat arrays: work, tables and weights. Each value gets
   a buffer, and its gradient another. The weights are packed as a matrix from the 4 x 4 x 32 elements of a window to 16
   channels (`Affine.pack_parameters`). The packed order depends on the architecture alone. So it is computed once, with
   symbolic indices in place of the weights (`symbolic`), and new weights take a single `numpy.take`.
4. **Forward.** `Affine.forward` calls `products.gather`, which writes one `Product`:

       y[n, i, j, :] = bias + window of x at (i, j), 4 rows of 4 * 32 contiguous elements   times   matrix (512, 16)

       sources  : where each of the 49 windows of an image begins in the work     (table)
       segments : where the 4 rows of a window begin, relative to the window      (table)
       targets  : where each of the 49 output pixels goes                         (table)
       epilogue : RELU

5. **Backward.** `Affine.backward` writes the gradient with respect to the source. Along an axis, input pixel k meets
   weight a at output pixel (k + padding - a) / stride = (k + 1 - a) / 2, where that is an integer: even and odd pixels
   meet different weights. So `products.scatter` writes one `Product` for each of the 2 x 2 phases. Each row gathers the
   2 x 2 output gradients that a pixel of the phase meets, and is multiplied by a matrix (2 * 2 * 16, 32) of its
   weights. If the source is itself the output of a ReLU, the last part of its gradient has the epilogue MASK: zero
   where the source is zero. `Value.next_epilogue` counts the parts. (With 16 input channels, pairs of pixels would be
   faster: `products.paired_gradient`.)
6. **Execution.** `evaluation.Program` encodes the lists as rows of integers.
   `kernels.interpreter.executor.run_instructions` decodes a row as a `Product` and calls
   `kernels.products.product.product`. It divides the result into *tiles* of 12 rows (pixels) and up to 32
   columns (channels). `kernels.products.tile` computes a tile with all its sums in registers.
7. **Training.** In a `training.TrainingProgram` batch norm is a node of its own (`nodes.TrainingNorm`), which uses the
   statistics of the batch. `Affine.parameter_gradients` writes the gradients with respect to weights and bias: sums
   over all pixels of all images of window times output gradient, again products of gathered rows
   (`kernels.products.outer_tile`).

**Checks.** `compiler` decides whether a program is used: the first program of each network structure is compared with
autodiff (`check`). Where a network cannot be compiled, or its program is wrong, autodiff is used.

**Modules, from the bottom up.** `symbolic`, `builder` (allocation), `values` (the intermediate representation),
`affine_map`; `products`, `blocks`, `winograd` (lowering of affine maps); `nodes`, `affine`, `warping`,
`reparameterization` (the nodes); `graph`, `structure`; `capacity` (how many images are computed together);
`evaluation`, `training` and `vae_training` (programs); `check`, `compiler`.

**To add a layer**, write its class in `layers` with `output_shape`, its operation in `operations`, and here a `Node`
that lowers itself forward and backward, with a reader in `graph.READERS`. If it needs a new kind of instruction, add a
named tuple to `kernels.instructions` and a branch to the executor.
"""
