"""The rooms of the membership protocol: one module for each state, the table of the ways between them beside them."""
