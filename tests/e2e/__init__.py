"""A package, not only a folder: without this file pytest keeps fixtures of its scope until the very end."""
