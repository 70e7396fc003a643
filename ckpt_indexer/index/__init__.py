"""The index on disk: ``codec`` (its bytes), ``store`` (who may write it, and how), ``reader`` (for everyone else),
``query`` (filters and sort orders over its entries).
"""
