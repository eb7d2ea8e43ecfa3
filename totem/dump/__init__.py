"""`totem dump`: what Corosync's datagrams say, from capture files or as they pass.

A pipeline of small modules, each with its own nouns:

    captures, live    Packet        a file, or this machine's interfaces
    network           Datagram      link layers, IP, fragments put together
    records           Record        packets by the `construct` schema, trains cut, copies told from retransmissions
    order             WholeMessage  multicasts in the order of the ring, fragments of each sender joined
    filters, text, json, summary    what is shown of it, and how
    command                         the command line

Executive messages belong to the layers above, of which this package knows nothing. Each installed package that has some
names the `Layer` that explains them in its metadata, under the entry point `totem.dump`.
"""
