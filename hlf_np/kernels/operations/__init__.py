"""The other operations on images and batches: warps (`warp`, `sampling`), pooling, batch norm, losses, Adam."""
