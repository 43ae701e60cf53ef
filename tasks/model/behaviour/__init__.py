"""What norms do when they are run: classes built tiny with random weights, their norms run, one forward followed.

Source: maths.md, sections 1 and 6.
"""
