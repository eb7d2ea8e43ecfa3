"""What Corosync's client libraries ask of a node: C programs linked with libcpg, and Corosync's own tools, on our ring.

`serve` answers libqb's IPC, of its two types the one over sockets, under the names of Corosync's services: cpg, quorum,
votequorum, cmap and cfg. A client of any of them is a connection with a session: requests in, answers out, events
between. Sessions know bytes and the node, no sockets; `server` has those.
"""

from cpg.libqb.names import NameTaken
from cpg.libqb.server import SERVICES, serve

__all__ = ["SERVICES", "NameTaken", "serve"]
