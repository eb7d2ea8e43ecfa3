"""What every local daemon and its clients need: sockets, lifecycle, access, scheduling, log."""
