"""The functions of equations.py, fast: one file per backend and function."""
