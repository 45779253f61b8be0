"""Tests of an engine control unit over CAN: signals by cantools, diagnostics by udsoncan, both through Jumpstarter."""
