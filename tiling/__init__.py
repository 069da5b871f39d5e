"""Slides to bags: choose the best tiles of each slide and store them as one HDF5 file."""
