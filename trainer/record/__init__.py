"""What a run leaves: its folder, metrics, history, report and plots; written, and read back."""
