"""Corellium's REST interface, as far as switching devices and reaching their consoles needs it."""
