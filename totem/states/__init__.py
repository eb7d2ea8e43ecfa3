"""The states of the membership protocol: one handler for each, and what they share."""
