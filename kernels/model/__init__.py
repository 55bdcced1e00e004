"""Parts of the network that save memory or time: attention, RMSNorm, cross-entropy."""
