"""The Totem single-ring protocol."""
