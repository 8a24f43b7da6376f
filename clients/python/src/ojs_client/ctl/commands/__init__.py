"""The commands of ``ojsctl``: one module per noun."""
