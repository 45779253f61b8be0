"""Real components for tests: daemons on loopback, virtual devices, and a guest with the kernel features of a lab."""
