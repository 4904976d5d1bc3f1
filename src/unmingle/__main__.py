"""``python -m unmingle`` is the command ``unmingle``."""

from unmingle.cli.main import main

if __name__ == "__main__":  # Worker processes import this file, too.
    main()
