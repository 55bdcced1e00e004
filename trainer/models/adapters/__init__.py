"""LoRA, ReLoRA and factors: small matrices beside the weights."""
