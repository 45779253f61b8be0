"""The gRPC services of the controller."""
