"""Models in the formats of others: one file per format, each with ``export`` and ``verify``."""
