"""Train, evaluate and compare digit classifiers in PyTorch, TensorFlow and from-scratch NumPy.

Importing this package loads nothing heavy: no framework, not even NumPy.
"""

__version__ = "0.1.0"
