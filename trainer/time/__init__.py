"""How long a traced step will take: what its operations come to, and how fast a device does them."""
