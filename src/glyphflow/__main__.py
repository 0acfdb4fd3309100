"""``python -m glyphflow`` is the command ``glyphflow``."""

from glyphflow.cli.main import main

if __name__ == "__main__":
    main()
