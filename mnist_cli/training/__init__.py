"""One run: the recipe, the epoch loop, evaluation, checkpoints, calibration."""
