"""The MNIST files themselves (see README.md here) and the readers of datasets."""
