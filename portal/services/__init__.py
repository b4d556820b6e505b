"""What is true and allowed. Pages, SMPP server and commands ask here; nothing here knows them."""
