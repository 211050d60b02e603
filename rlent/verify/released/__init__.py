"""Functions that only prove: what the authors compute around a method's formula, for the vectors of their code.

One file for each paper. They call the functions of `rlent.methods`, so that a formula both have in common is proven once for both.
Classes derived from `Adapter` put a vector's inputs into the shape that a mounted function takes. No run imports this room.
"""
