"""Charts: one file a chart, beside what they share. Each has ``draw``, which writes a PNG file.

Charts read records and arrays and nothing else. ``draw`` raises `OutputError` if the file cannot be
written, and `UsageError` if there is no record.
"""
