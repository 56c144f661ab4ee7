"""Every reader against files that were damaged, cut, or made to harm."""
