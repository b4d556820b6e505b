"""SMPP Portal: customers look after their SMS SMPP accounts, and an SMPP 3.4 server obeys at once."""

__version__ = "0.1.0"
