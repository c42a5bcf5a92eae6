"""A trial of the first batch: whether a model and its loss are what the inner loop takes them for."""
