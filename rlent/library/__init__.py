"""Methods as Python functions: `rlent.method(name)`. The other public names of `rlent` are functions of `rlent.math` and `rlent.grading`."""
