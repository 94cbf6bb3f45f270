"""The answers, read from the marts: on the terminal and as one page."""
