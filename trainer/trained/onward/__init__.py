"""Going on with another toolkit: its configuration beside the exported weights, one file per toolkit."""
