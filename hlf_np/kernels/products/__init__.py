"""Matrix products in registers, and convolutions made of them.

`tile`, `outer_tile` and `product` have the products, `geometry` and `convolution` the convolutions.
"""
