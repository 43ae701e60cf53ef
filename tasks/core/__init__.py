"""The pure part: bytes and names in, conclusions out; no I/O, no clock, no environment."""
