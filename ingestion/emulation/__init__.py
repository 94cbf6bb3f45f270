"""Invented posts, and the loop that sends them."""
