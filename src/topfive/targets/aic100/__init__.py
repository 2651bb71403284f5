"""Qualcomm's Cloud AI 100 through its own tools: qaic-exec or qaic-compile, qaic-runner, qaic-util."""
