"""Links: who can be reached, over which network, with which size of packets; and what is said over them.

A node has up to eight links to each other node of the nodelist, each with an address of its own at both ends. The
machine (`machine.Links`) has no socket and no clock: datagrams and time go in, datagrams and totem's packets come out.

    machine      all links of a node: what goes where, and what has come
    path         one link to one other node: pings, pongs, up and down, the path's MTU
    arrivals     what one other node sends: numbers, duplicates, fragments
    crypto       packets sealed and opened
    keyring      keys that change
    probing      who hears whom, and what paths carry, among nodes of ours on udpu and udp
    pieces       frames that a path does not carry whole
"""
