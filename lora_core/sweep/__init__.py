"""One thing changed at a time: axes of a sweep, its points, the sheet of its pictures, and what each point changed."""
