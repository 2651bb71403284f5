"""`gemmini_spike`: the int8 graph as a RISC-V program that uses Gemmini's instructions, run on spike."""
