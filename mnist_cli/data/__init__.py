"""Datasets: one file per format, `registry` for names and paths, `split`, and MNIST itself."""
