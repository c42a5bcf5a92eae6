"""From a meta-checkpoint to a model on the user's own data."""
