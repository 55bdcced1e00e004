"""The parts of an update, each in a table: subspaces, refreshes, transports, inner rules, residuals, storage."""
