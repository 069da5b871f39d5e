"""Slides that look like H&E, with lesions whose place is known: for the demo, the tests and the benchmarks."""
