"""Which stages run in which round, in what order, and what each reads."""
