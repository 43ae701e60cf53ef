"""A stand-in for the Hugging Face Hub on loopback, with models of its own, for demo, tests and benchmarks."""
