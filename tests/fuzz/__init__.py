"""Bytes at random into whatever parses what strangers wrote."""
