"""Names of the environment variables that Jumpstarter reads or sets."""

JMP_CLIENT_CONFIG_HOME = "JMP_CLIENT_CONFIG_HOME"
"""Directory of all configs; default `$XDG_CONFIG_HOME/jumpstarter`, else `~/.config/jumpstarter`."""

JMP_CLIENT_CONFIG = "JMP_CLIENT_CONFIG"
"""Path of the client config file to use."""

JMP_CLIENT = "JMP_CLIENT"
"""Alias of the client config to use."""

JMP_ADMIN = "JMP_ADMIN"
"""Alias of the admin config to use."""

JMP_ADMIN_CONFIG = "JMP_ADMIN_CONFIG"
"""Path of the admin config file to use."""

JMP_CONTROLLER_CONFIG = "JMP_CONTROLLER_CONFIG"
"""Path of the config of the controller that is run."""

JMP_CONTROLLER_DATA = "JMP_CONTROLLER_DATA"
"""Folder of the lab that is served."""

JMP_NAMESPACE = "JMP_NAMESPACE"
"""Namespace of the client or exporter."""

JMP_NAME = "JMP_NAME"
"""Name of the client or exporter."""

JMP_ENDPOINT = "JMP_ENDPOINT"
"""`host:port` of the controller."""

JMP_TOKEN = "JMP_TOKEN"
"""Bearer token for the controller."""

JMP_DRIVERS_ALLOW = "JMP_DRIVERS_ALLOW"
"""Comma-separated globs of the client classes that may be imported; the member `UNSAFE` allows all."""

JMP_DRIVERS_UNSAFE = "JMP_DRIVERS_UNSAFE"
"""Boolean; true allows every client class."""

JUMPSTARTER_HOST = "JUMPSTARTER_HOST"
"""Where the session listens that a client connects to: path of a Unix socket or `host:port`."""

JMP_LEASE = "JMP_LEASE"
"""Name of an existing lease to use."""

JMP_EXPORTER = "JMP_EXPORTER"
"""Inside a shell: name of the exporter that the lease holds."""

JMP_EXPORTER_LABELS = "JMP_EXPORTER_LABELS"
"""Inside a shell: labels of that exporter, `key=value` pairs separated by commas."""

JMP_DIRECT = "JMP_DIRECT"
"""`0` keeps clients from reaching the exporters of leases without a router."""

JMP_DISABLE_COMPRESSION = "JMP_DISABLE_COMPRESSION"
"""`1`: the exporter takes no compressed resources."""

JMP_OIDC_CALLBACK_PORT = "JMP_OIDC_CALLBACK_PORT"
"""TCP port on which a login waits for the browser."""

JMP_OIDC_DEVICE_FLOW = "JMP_OIDC_DEVICE_FLOW"
"""`1`: log in by a code that is entered on another device."""

JMP_GRPC_INSECURE = "JMP_GRPC_INSECURE"
"""`1`: TLS certificates are not verified; with a TCP `JUMPSTARTER_HOST`, no TLS at all."""

JUMPSTARTER_GRPC_INSECURE = "JUMPSTARTER_GRPC_INSECURE"
"""Older name of `JMP_GRPC_INSECURE`."""

JMP_GRPC_PASSPHRASE = "JMP_GRPC_PASSPHRASE"
"""Passphrase of an exporter that is reached directly over TCP."""

JMP_RETRY_TIMEOUT = "JMP_RETRY_TIMEOUT"
"""Seconds for which a new lease is tried when the exporter can't be reached; 0 turns that off."""

JMP_DIAL_TIMEOUT = "JMP_DIAL_TIMEOUT"
"""Seconds for which connecting to the exporter of a lease is tried."""

JMP_MOTD_FILE = "JMP_MOTD_FILE"
"""Set for the beforeLease hook: file whose text is shown to the client."""
