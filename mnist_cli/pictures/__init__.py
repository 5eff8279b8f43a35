"""A person's picture to 28x28 digits in the form of MNIST's."""
