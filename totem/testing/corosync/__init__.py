"""A model of one real Corosync 3.1.7 node: totemsrp with totempg above it, as it behaves, faults included.

It is no second implementation of the protocol but a likeness of the first one, so that mixed rings can be run in the
simulator and our nodes be judged against their neighbours. It has the interface of `Processor`, and shares no code with
it but the codec and the configuration types. Names of variables and steps are Corosync's, letter by letter: a reader
can follow with the wire document or with totemsrp.c at hand. It is tested by replaying captures of real rings: what
arrived at a real node goes in, and what comes out must be what that node sent.

What a real node does otherwise than the papers, or than we would, and what the model therefore does too:

* Messages are delivered as soon as they are in order; SAFE is not known, `guarantee` is neither sent nor read.
* A token's effects on "seq unchanged" and on freeing come before it is known to be a duplicate or of a foreign ring.
* What an attempt at recovery brought is forgotten when it breaks: the next one empties the recovery queue, and aru and
  highest seq are those of the old ring. `my_retrans_flg_count`, `my_rotation_counter` and `my_set_retrans_flg`, on the
  other hand, are *not* reset, so that a later attempt may be installed too early or too late.
* A multicast is filed by its `encapsulated` mark, not by its ring: a plain one of the new ring that arrives in recovery
  lands in the old ring's queue, and a hole stays where it belongs.
* At install all that the recovery queue holds is released, up to its highest message and over its holes.
* New messages go to one of two queues, and are put together in one of two sets of buffers: from the transitional
  configuration until sync is complete the "trans" ones are used. What is staged or queued is never withdrawn, so what
  was left over from one stream may come out in the other, and sync messages of a round that was broken off in the next.
* A join whose failed list is not believed leads into gather again, and is answered at once, though nothing has changed.
  Two nodes of different rings that hold different nodes for failed do this to each other for ever, as fast as they can,
  and their consensus timers never expire. This storm the model keeps up for a while only (`JOIN_STORM`).
* A receiver that meets a fragment out of turn throws away all that comes from this sender, up to and including the next
  frame that ends with a whole message.

Where a real node would end by assertion, the model raises an `AssertionError` that says why: a test then knows that
something has killed a real node. It models transport udpu. A node's own packets come back to it through the kernel, as
they do in udpu, and it depends on that; here they do so a moment later (`LOOPBACK`), by way of `deadline`. The random
delay before joins (`send_join`) is left out.
"""

from totem.testing.corosync.totemsrp import CorosyncModel

__all__ = ["CorosyncModel"]
