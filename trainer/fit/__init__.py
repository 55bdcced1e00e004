"""Will it fit: a rehearsed step, a verdict, remedies, and what was measured."""
