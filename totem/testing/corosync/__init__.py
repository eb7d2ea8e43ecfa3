"""A model of one real Corosync 3.1.7 node: totemsrp with totempg above it, as it behaves, faults included.

It is no second implementation of the protocol but a likeness of Corosync's. With it mixed rings run in the simulator,
and this package's nodes are judged against such neighbours. It has the interface of `Processor`, and shares no code
with it but the codec and the configuration types. Names of variables and steps are Corosync's, letter by letter, so
that a reader can follow with docs/wire.md or totemsrp.c at hand. It is tested by replaying captures of real rings: what
arrived at a real node goes in, and what comes out must be what that node sent.

A real node differs from the papers, and from this package, in the following; so does the model:

* Messages are delivered as soon as they are in order. SAFE is not known; `guarantee` is neither sent nor read.
* A token affects "seq unchanged" and the freeing of messages before it is known to be a duplicate or of another ring.
* What an attempt at recovery brought is forgotten when it breaks: the next one empties the recovery queue, and aru and
  highest seq are those of the old ring. But `my_retrans_flg_count`, `my_rotation_counter` and `my_set_retrans_flg` are
  *not* reset, so that a later attempt may be installed too early or too late.
* A multicast is filed by its `encapsulated` mark, not by its ring. A plain one of the new ring that arrives in recovery
  goes to the old ring's queue, and leaves a hole where it belongs.
* At install all that the recovery queue holds is released, up to its highest message and over its holes.
* New messages go to one of two queues, and are assembled in one of two sets of buffers: from the transitional
  configuration until sync is complete, the "trans" ones are used. What is staged or queued is never withdrawn. So the
  rest of one stream may come out in the other, and sync messages of a broken round in the next round.
* A join whose failed list is not believed leads into gather again, and is answered at once, though nothing has changed.
  Two nodes of different rings that hold different nodes for failed do this to each other for ever, as fast as they can,
  and their consensus timers never expire. The model keeps up this storm only for a while (`JOIN_STORM`).
* A receiver that gets a fragment out of turn throws away everything from that sender, up to and including the next
  frame that ends with a whole message.

Where a real node would die by assertion, the model raises an `AssertionError` that says why, so that a test knows that
something has killed a real node. It models transport udpu. A node's own packets come back to it through the kernel, as
they do in udpu, and it depends on that; here they do so a moment later (`LOOPBACK`), by way of `deadline`. The random
delay before joins (`send_join`) is left out.
"""

from totem.testing.corosync.totemsrp import CorosyncModel

__all__ = ["CorosyncModel"]
