"""Many runs from one recipe: one table, one picture."""
