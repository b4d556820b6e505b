"""What is true and allowed. Every door (pages, SMPP, shell) asks here; nothing here knows a door."""
