"""Judging pictures by what a detector sees in them."""
