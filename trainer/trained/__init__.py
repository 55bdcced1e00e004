"""Using a finished run: the model of it, evaluation, export, model card."""
