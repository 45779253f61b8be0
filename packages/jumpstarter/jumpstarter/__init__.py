"""Drive real and virtual devices from a shell, a program or a test."""

import os

# gRPC's own log lines tell a user nothing that the raised exceptions don't; it reads both when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
os.environ.setdefault("GLOG_minloglevel", "2")
