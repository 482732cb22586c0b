"""What runs in the build's interpreter, where this package is not installed.

The supervisor is started by its path and loads the rest from this folder. So the modules here import the standard library, pandas
and pyarrow, each other relatively, and nothing else of the package. The parent imports them as well, for file types and their suffixes.
"""
