"""Nights that are killed at random moments."""
