"""Fast versions of equations.sequence, one file a backend, all with its signature."""
