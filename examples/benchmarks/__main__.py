"""`python -m examples.benchmarks`, from the repository's root: our speed beside other programs'."""

from examples.benchmarks.speed.program import main

if __name__ == "__main__":
    main()
