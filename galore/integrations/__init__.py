"""GaLore inside other libraries' training loops."""
