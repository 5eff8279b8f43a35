"""The networks as data."""
