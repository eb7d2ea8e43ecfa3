"""The ring of the Corosync that runs on this machine, through its client libraries."""
