"""Bags to models to scores: multiple-instance learning, end to end on pixels."""
