"""A stand-in for a Kubernetes API server: its storage, schemas, rights and requests, for tests of what relies on them.

What it has to do like a real one is written down in `semantics_test.py`, which runs against either.
"""
