"""The parts an update is composed of, each in a table: subspaces, refreshes, transports, inner rules, residuals, storage."""
