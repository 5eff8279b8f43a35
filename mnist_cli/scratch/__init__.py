"""A neural network written by hand: every forward and backward pass, with NumPy alone."""
