"""Documents from files and hub: rows by format and column, quality, held-out part."""
