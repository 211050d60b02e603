"""Evaluation: sample, grade, count, and say how sure the numbers are."""
