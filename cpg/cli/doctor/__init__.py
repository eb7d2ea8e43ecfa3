"""`cpg doctor`: check a node from inside and outside, and say what to do.

Each check yields findings (`findings`), one line each. `inside` looks at this machine: the file, addresses, ports,
buffers, privileges, disk, clock. `firewall` reads nftables' rules. `outside` looks at the way to each other node, and
`listening` at what comes from there. Over knet it speaks the layer of links itself where no node runs here; of a node
that runs, `running` reads the status. `digests` name the settings that must be equal at all nodes. `machine` asks the
operating system.

The doctor never takes part in a ring: it sends no packet of totem.
"""

from cpg.cli.doctor.command import doctor

__all__ = ["doctor"]
