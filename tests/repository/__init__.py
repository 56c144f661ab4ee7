"""The rules of the house as code: each rule takes paths and returns what breaks it, in words."""
