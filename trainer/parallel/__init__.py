"""Several processes, one model: sums over ranks, on torch.distributed."""
