"""The figures of a report: SVG elements whose colours the page's style sheet sets, light or dark."""
