"""Devices that exist in software only and speak the protocols of the real ones byte for byte."""
