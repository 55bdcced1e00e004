"""Tasks × methods × rates × seeds of GLUE, submissions, published numbers."""
