"""The Lightning module that is trained, and what is looked at before hours are spent on it."""
