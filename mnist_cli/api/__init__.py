"""The Python API: what the commands do, as functions that return records.

Names and defaults are those of the command line's options, except that nothing is written unless
``results_dir`` is given. The functions work in scripts (no ``__main__`` guard is needed), in
threads and in notebooks: each run trains in a process of its own, started by its command line.
Errors are those of `mnist_cli.errors`; an unknown keyword names the nearest known one.
"""
