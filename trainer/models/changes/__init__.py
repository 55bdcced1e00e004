"""What a recipe changes of a network's forward: one table of all changes, and fused pieces."""
