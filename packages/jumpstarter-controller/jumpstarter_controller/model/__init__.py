"""What a lab consists of, and the rules of leases, as values and pure functions."""
