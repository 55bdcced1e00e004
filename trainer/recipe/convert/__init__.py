"""Files of other toolkits made into recipes: a table per toolkit, and what became of each line."""
