"""What only makes it fast. Each part has an off switch (``switches``), without which the numbers are the same."""
