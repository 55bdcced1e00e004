"""The parts an update is composed of, each in a table: subspaces, refreshes, inner rules, and how their tensors are kept."""
