"""What the money of calls comes to: the ledger's words, and pure functions over them."""
