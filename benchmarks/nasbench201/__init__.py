"""How well cheap scores rank the cells of NAS-Bench-201, what they cost, and what searches find with them."""
