"""Running the grid: preparing what all cells share, estimating the duration, then training and attacking cell by cell.

A *cell* is one model: a training, a number of training images, and a seed.
"""
