"""One file per paper; a recipe names their functions by dotted path.

Positional parameters are streams of the run, keyword-only parameters are options of the recipe. Option values live in
`recipes/`, so that a number is written once and can be read beside its remark.
"""
