"""Modules, and the functions that pick a kernel for them."""
