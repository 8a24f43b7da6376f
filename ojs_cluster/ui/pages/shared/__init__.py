"""What several pages share: marks on charts, the language, the time zone, changes in words."""
