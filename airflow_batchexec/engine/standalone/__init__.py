"""The modules that run in the build's interpreter, where this package is not installed.

The supervisor is started by its path and loads the rest from this folder. These modules therefore import only the
standard library, pandas and pyarrow, and each other by relative imports. The parent imports them too, for file types
and their suffixes.
"""
