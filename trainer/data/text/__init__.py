"""Documents from files and hub: formats, encodings, fields, quality, held-out part."""
