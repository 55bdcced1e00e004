"""What is done with a projected gradient: Adam, Adafactor, orthogonal steps, residuals, transport of moments."""
