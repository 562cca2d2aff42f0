"""Labelled posters -> Ray Train workers -> model bundle."""
