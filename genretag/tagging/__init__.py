"""Inventory -> worklist -> fetch and decode -> predict -> part files -> run record."""
