"""Convolutions with fewer multiplications, by Winograd's algorithm.

`forms` has the mathematics and the matrices, `filters` the filter transform, `winograd` the convolution itself.
"""
