"""How many requests a key may send: the ledger, its state, pace and pauses."""
