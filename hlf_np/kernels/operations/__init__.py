"""The other operations: warps (`warp`, `sampling`), pixels, overlapping patches, pooling, batch norm, losses, Adam."""
