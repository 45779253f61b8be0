"""Joins the two ends of a stream and relays its frames."""
