"""The other operations on images and batches: warps (`warp`, `sampling`), single pixels, overlapping patches, pooling, batch norm, losses, Adam."""
