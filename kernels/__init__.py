"""Fast sums over pairs and meshes, each with the derivatives that torch needs, and their plain formulas."""
