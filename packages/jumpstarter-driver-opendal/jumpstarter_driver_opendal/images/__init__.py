"""Disk images: reading their formats, cutting them into pieces, fetching them, and keeping them in a cache."""
