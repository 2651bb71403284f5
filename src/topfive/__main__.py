"""`python -m topfive`: the command line."""

from topfive.cli import main

main()
