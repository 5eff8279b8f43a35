"""The page of `mnist draw` and the JSON API behind it."""
