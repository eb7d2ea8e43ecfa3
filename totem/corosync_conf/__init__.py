"""Reader for Corosync's configuration files, corosync.conf(5).

A file is read in steps. `syntax` makes a tree of sections as Corosync's own parser would. `survey` warns of all that
has no effect. `reader` turns the tree into a `Config`, and refuses a value that cannot be right, with file and line.

Some keys are this package's own, among them `ring0_port` in a node section, so that several nodes can live at one
address (`vocabulary`).
"""

from totem.corosync_conf.files import ConfigFile, Loaded, load, load_section, parse
from totem.corosync_conf.reader import Resolve, Section
from totem.corosync_conf.this_node import own_node
from totem.corosync_conf.values import number, one_of, switch

__all__ = [
    "ConfigFile",
    "Loaded",
    "Resolve",
    "Section",
    "load",
    "load_section",
    "number",
    "one_of",
    "own_node",
    "parse",
    "switch",
]
