"""Jumpstarter driver that serves files over TFTP to a device."""

CHUNK_SIZE = 4 << 20
"""Kept for programs that import it; the server reads files in pieces of 1 MiB."""
