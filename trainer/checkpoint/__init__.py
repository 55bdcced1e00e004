"""What a run goes on from: written at once or not at all, verified before it is used."""
