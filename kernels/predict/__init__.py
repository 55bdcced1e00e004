"""What a kernel will cost on a card: compiled without one, counted, predicted, and measured where there is one."""
