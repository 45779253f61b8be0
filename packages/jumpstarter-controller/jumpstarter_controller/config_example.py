"""The config file of a controller with everything that can be said in it, for `jmp controller config --example`."""

EXAMPLE = """\
# Config of a lab, for: jmp controller run --config FILE
#
# Everything has a default, which is what stands here after a '#'; an empty file is a config too. Options of the command
# line come before this file. Lengths of time are written as 90d, 1h30m, 45s, ISO 8601, or a number of seconds. Relative
# paths begin at the folder of this file.

apiVersion: jumpstarter.dev/v1alpha1
kind: ControllerConfig

# -- where it is ----------------------------------------------------------------------------------

# Folder of the store, the certificate authority and the keys; made at the first start, for its owner alone.
# data: ~/.local/share/jumpstarter/lab

# Where the lab is kept: `sqlite`, in the folder, or `kubernetes`, as objects of a cluster, where several controllers
# can serve it. Without a kubeconfig a pod uses its service account; context and namespace are the current ones.
# store: sqlite
# kubernetes:
#   kubeconfig: ~/.kube/config
#   context: lab
#   namespace: jumpstarter
#   peerListen: 0.0.0.0:8087  # for the other controllers; default: a free port of the host in `listen`
#   peerEndpoint: 10.0.0.7:8087  # where they reach this one; default: that address, or POD_IP of the environment
#   routers: ["0", "1"]  # get an account, with a token that is kept in the Secret jumpstarter-router-NAME

# Address of the services. Only this machine can connect, unless it is another one: 0.0.0.0:8082 is all of them.
# listen: 127.0.0.1:8082

# What peers are told to dial, when it isn't the address: behind another name, a port forwarding, a load balancer.
# endpoint: lab.example.com:8082

# Further hosts that are dialled, for certificates of the lab's own authority.
# names: [lab.internal.example.com]

# The router has the next port, for streams that outlive a minute without network; `listen: shared` puts it on the same.
# `listen: none` leaves streams to routers that join; several controllers behind one address need that.
# router:
#   listen: 0.0.0.0:8083
#   endpoint: lab.example.com:8083

# REST, log-in page and dashboard, over TLS; an empty address for none. The endpoint is the URL that people are told.
# web:
#   listen: 127.0.0.1:8086
#   endpoint: https://lab.example.com

# Metrics for Prometheus, in plain text; an empty address for none.
# metrics:
#   listen: 127.0.0.1:8080

# Seconds that streams get for ending when the server is stopped.
# drain: 5

# -- certificates ---------------------------------------------------------------------------------

# The lab has a certificate authority of its own, and puts it into the configs that it writes. To use a certificate that
# you look after (PEM, key without passphrase; read again when the files change):
# tls:
#   certificate: /etc/jumpstarter/lab.crt
#   key: /etc/jumpstarter/lab.key
#   ca: /etc/jumpstarter/ca.crt  # what peers have to trust; leave it out for public authorities

# -- accounts -------------------------------------------------------------------------------------

# For requests that name none.
# namespace: default

# tokens:
#   life: 90d
#   grace: 5m  # for how long a rotated token is still accepted
#   prefix: "internal:"

# Make a client for whoever logs in at a provider for the first time.
# provisioning: false

# Login providers, in the form of Kubernetes' JWTAuthenticator.
# jwt:
#   - issuer:
#       url: https://login.example.com/realms/lab
#       audiences: [jumpstarter-cli]
#       certificateAuthority: /etc/jumpstarter/login-ca.crt
#     claimMappings:
#       username:
#         claim: preferred_username
#         prefix: "keycloak:"

# -- leases ---------------------------------------------------------------------------------------

# leases:
#   maxTags: 10
#   offlineAfter: 4s  # an exporter whose connection is lost counts as offline after this
#   pendingGrace: 30s  # a waiting lease is cancelled so long after its client has gone
#   pendingLimit: 1h  # leases of older clients, which can't be watched, wait no longer; default: for ever
#   keepEnded: 30d  # for how long ended leases can be looked up
#   warnBefore: 5m  # the end of a lease
#   hiddenLabels: [internal/rack]  # not shown to clients
#   deprecatedLabels:
#     board: use board-type

# -- the audit record -----------------------------------------------------------------------------

# audit:
#   keep: 90d
#   maxEntries: 1000000

# -- routers --------------------------------------------------------------------------------------

# Routers of other machines join by `jmp router run` and need no entry. Those of Kubernetes installations, which share
# the key of stream tokens, do:
# routers:
#   - name: east
#     endpoint: east.example.com:8083
#     labels: {site: east}
"""
