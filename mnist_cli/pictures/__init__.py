"""Pictures to 28x28 digits as in MNIST: `normalise.prepare` runs all steps."""
