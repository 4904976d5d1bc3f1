"""``python -m unmingle`` is the command ``unmingle``."""

from unmingle.cli.main import main

main()
