"""WHAT runs, when, in which order."""
