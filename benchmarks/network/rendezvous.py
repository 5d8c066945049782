"""Serve Horovod's rendezvous over Gloo for one rank a host: print the port, and stop when standard input ends.

Usage: rendezvous.py HOST [HOST ...]
"""

from __future__ import annotations

import sys

from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.http.http_server import RendezvousServer

names = sys.argv[1:]
server = RendezvousServer(0)
port = server.start()
server.init(get_host_assignments(parse_hosts(",".join(f"{name}:1" for name in names)), len(names)))
print(port, flush=True)
sys.stdin.read()
