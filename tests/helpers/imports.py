"""Code that blocks the import of modules, as if they were not installed."""

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "matplotlib", "sklearn", "scipy", "pandas", "pyarrow"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
"""
