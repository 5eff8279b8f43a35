"""Logs of training runs for the tools of others, one file per format."""
