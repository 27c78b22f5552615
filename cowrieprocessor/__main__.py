"""Run the command line with `python -m cowrieprocessor`."""

from cowrieprocessor.cli.main import main

if __name__ == "__main__":
    main()
