"""`gemmini_qemu`: the int8 graph as a RISC-V program of our own, run under QEMU's user emulation."""
