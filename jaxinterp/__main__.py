"""`python -m jaxinterp`: the command line."""

from jaxinterp.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
