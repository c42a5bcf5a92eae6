"""What a run shows while it goes on and at its end: the model, how far it has come, and the table of results."""
