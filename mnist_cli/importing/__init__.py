"""Models of other programs: each reader traces a file's layers as a `flow.Flow`."""
