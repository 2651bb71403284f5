"""Every command of `topfive` as an operation on JSON: for other programs, and over HTTP."""
