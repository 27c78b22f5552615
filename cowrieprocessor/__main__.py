"""`python -m cowrieprocessor` is the command `cowrieprocessor`."""

from cowrieprocessor.cli.main import main

if __name__ == "__main__":
    main()
