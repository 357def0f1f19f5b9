"""``python -m meshctl``: the same as the console script ``meshctl``."""

from meshctl.cli import main

main()
