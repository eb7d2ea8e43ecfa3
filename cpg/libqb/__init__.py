"""Corosync's IPC on our ring: C programs linked with libcpg, and Corosync's own tools, find a node.

`serve` answers libqb's IPC, in its form over sockets, under the names of Corosync's services: cpg, quorum, votequorum,
cmap and cfg. A client of any of them is a connection with a session: requests in, answers out, events between. Sessions
know bytes and the node, no sockets; `server` has those.
"""

from cpg.libqb.names import NameTaken
from cpg.libqb.server import SERVICES, serve

__all__ = ["SERVICES", "NameTaken", "serve"]
