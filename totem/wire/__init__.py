"""Corosync 3.1's bytes: `layout` (structs), `messages` (nouns), `codec` (between them), `schema` (the reference)."""
