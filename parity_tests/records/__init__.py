"""Any network: recorders, maps between networks, and what is found between two of them."""
