"""A driver for a heating plate, as the tutorial builds it."""
