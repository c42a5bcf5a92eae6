"""Training steps that are not waited for: whether each was finite is learnt while the device works at the next one."""
