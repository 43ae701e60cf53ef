"""Models in memory: the only package that imports torch and transformers, and is itself imported only when asked for.

It needs none of the packages that reading the Hub needs, so a machine with torch, transformers, NumPy and safetensors
can use it.
"""
