"""What a lab does in a Kubernetes cluster beside keeping its records there: who leads, and credentials for objects."""
