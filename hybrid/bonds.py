"""What counts as a bond, and what as a metal, where structures are understood by their distances."""

BOND_FACTOR = 1.3  # longest bond / sum of covalent radii: 1.26 Å for O-H, 3.5 Å for Au-Au
NO_METALS = frozenset(
    "H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Te I Xe At Rn Ts Og".split()  # noqa: SIM905 - reads better
)
