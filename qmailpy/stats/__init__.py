"""Channel counters: the mapped lanes, their fold, and the texts made of them."""
