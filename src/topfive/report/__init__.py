"""Showing results: terminal tables, CSV, explanations of failures."""
