"""A run's files: its folder and owner, checkpoints, recipes, what a file of somebody else may name."""
