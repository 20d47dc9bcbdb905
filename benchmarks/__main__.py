"""`make bench`: time and memory of one meta-gradient, in units of plain training of as many steps."""

from benchmarks.engine import main

main()
