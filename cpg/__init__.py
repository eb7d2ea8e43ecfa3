"""Closed process groups on a Totem ring."""
