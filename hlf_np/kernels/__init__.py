"""The compiled code. This page leads through it; `hlf_np.programs` leads from a layer of a network to this code.

All work is done by two kinds of inner loop: a *tile* of a matrix product, held in the processor's registers
(`products.tile`), and loops over contiguous values that the compiler turns into vector instructions. Every linear
layer, forward and backward, consists of such products.

**Packages and modules**, in reading order. Each imports only from those above it:

    numba_internals   what depends on internals of Numba and LLVM: caching, calls by address, the parallel loop,
                      LLVM instructions written by hand. Skip it at first; `kernel`, `callee` and `inlined` are `njit`.
    layout, buffers   where the pixels of a batch lie in a flat array; arrays that are reused
    instructions      the language of compiled networks: one named tuple for each kind of instruction
    products          tile:         one tile, 12 rows by 32 columns, in registers    <- the heart; read it first
                      outer_tile:   tiles of sums over pixels: the gradients of weights
                      product:      whole matrix products, tile by tile
                      geometry:     which rows a convolution gathers and where they go
                      convolution:  a convolution and both of its gradients, by these tiles
                      peak:         what a core can reach, for `bench`
    winograd          forms:        convolutions with fewer multiplications: the mathematics
                      filters:      the transforms of the weights
                      winograd:     the kernel
    operations        warp, sampling, pointwise, overlap, pooling, normalization, losses, adam
    interpreter       executor:     runs lists of instructions, on a few images in one core's cache
                      attack:       whole attacks; gradient: gradients of any function of the logits
                      update:       Adam's step; training: whole training steps

**One convolution**, as autodiff calls it (`hlf_np.operations`); a compiled network prepares the tables beforehand:

    convolve(x, weight, bias, stride=2, padding=1)                  x (N, 28, 28, 16), weight (32, 16, 4, 4)
      geometry(...)              the tables: where the 196 windows of an image start, where their results go
      panels(matrix)             the weights as a matrix (256, 32), stored in panels of 32 columns
      PRODUCTS.parallel_for      chunks of 8 images are distributed among the threads:
        _add_halo                  copy a chunk of images, each inside a halo of zeros
        product                    for each panel and each 12 of the chunk's 1568 rows:
          tile                       24 vectors of sums in registers, 256 steps of 24 multiply-adds each
    y (N, 14, 14, 32)

No result depends on the number of threads. Which images are computed together may, but each row of a tile has its own
sums, added up in the order of k, so an image's result does not depend on its neighbours. Sums over images are taken
over fixed parts of the batch, which are then added up in a fixed order (`interpreter.training`).

**Without compilation** (NUMBA_DISABLE_JIT=1) the same code runs as plain Python, with a NumPy reference for what is
written in LLVM, slowly but step by step in a debugger, and with every index checked.
"""

import os

# Threads of GNU OpenMP that wait for others spin first, by default for many milliseconds. If the machine has other
# work to do, a spinning thread keeps the thread that it waits for from running, and short parallel loops become ten
# times slower. To sleep at once, on the other hand, costs a wake-up for each loop. Half a millisecond bridges the time
# between two operations. OpenMP reads this variable when Numba starts its threads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
