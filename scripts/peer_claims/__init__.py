"""Claims about other libraries, each a function that measures it: scripts/peers.py runs them."""
