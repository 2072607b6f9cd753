"""What commands print, apart from how they get it."""
