"""How many requests a key may send: the ledger, its state, the rate limit and the circuit breaker."""
