"""Jumpstarter's objects on Kubernetes."""
