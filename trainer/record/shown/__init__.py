"""What is made of a run's records for people: report, plots, page."""
